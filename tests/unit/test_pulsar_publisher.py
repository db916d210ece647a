"""The publisher against a scripted broker: lanes, ids, references, failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pulsar
import pytest

from connectors.pulsar_publisher import Publisher
from models.ids import key_of, partition_of
from models.records import (
    ALL_COLLECTIONS,
    Change,
    Delete,
    Floor,
    Position,
    Timestamp,
    Upsert,
    Version,
)
from models.wire import Heartbeat, Message, Reference, decode, sequence_id
from syncline.errors import Misconfigured, Unavailable
from syncline.telemetry import Telemetry

TOPICS = ("t-0", "t-1", "t-2")
START = Version(1_700_000_000, 1)


class Sent:
    """One message as the broker got it."""

    def __init__(self, topic: str, producer: str, raw: bytes, options: dict[str, Any]) -> None:
        self.partition = TOPICS.index(topic)
        self.lane = producer.split(":")[1]
        self.producer = producer
        self.message = decode(raw)
        self.sequence_id = options["sequence_id"]
        self.key = options["partition_key"]


class Broker:
    """Confirms what it is sent at once; `answers` are given instead of the next confirmations."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.answers: list[str] = []
        self.clients = 0
        self.closed = 0

    def connect(self) -> Any:
        self.clients += 1
        return self

    def create_producer(self, topic: str, *, producer_name: str, **_options: Any) -> Any:
        return _Producer(self, topic, producer_name)

    def close(self) -> None:
        self.closed += 1


class _Producer:
    def __init__(self, broker: Broker, topic: str, name: str) -> None:
        self._broker, self._topic, self._name = broker, topic, name

    def send_async(self, raw: bytes, confirmed: Callable[[Any, Any], None], **options: Any) -> None:
        answer = self._broker.answers.pop(0) if self._broker.answers else "Ok"
        if answer == "Ok":
            self._broker.sent.append(Sent(self._topic, self._name, raw, options))
        confirmed(getattr(pulsar.Result, answer), None)

    def close(self) -> None:
        pass


@pytest.fixture
def scripted() -> Broker:
    return Broker()


def make(broker: Broker, **options: Any) -> Publisher:
    options.setdefault("telemetry", Telemetry())
    publisher = Publisher(broker.connect, TOPICS, scope="0123456789", **options)
    publisher.begin(Position(scope="0123456789", start=START))
    return publisher


def event(n: int, text: str = "", **changes: Any) -> Upsert:
    fields = {"_id": n, "text": text}
    return Upsert(key=key_of("c", n), version=Version(1_700_000_001, n), fields=fields, **changes)


def test_partition_key_and_id_of_an_event(scripted: Broker) -> None:
    """It goes to its document's partition, under its key, numbered by its version."""
    changes: list[Change] = [event(n) for n in range(1, 20)]
    changes.append(Delete(key=key_of("c", 20), version=Version(1_700_000_001, 20)))
    make(scripted).publish(changes)
    for sent, change in zip(scripted.sent, changes, strict=True):
        assert not isinstance(change, Floor) and sent.message == change
        assert sent.partition == partition_of(change.key, len(TOPICS))
        assert sent.key == f"c/{change.key.id}"
        assert (sent.lane, sent.sequence_id) == ("stream", sequence_id(change.version))


def test_floors_and_heartbeats_at_their_place(scripted: Broker) -> None:
    """They stand in every partition, between the same changes."""
    floor = Floor(collection="c", version=Version(1_700_000_001, 10))
    beat = Heartbeat(generation=1, watermark=Timestamp(1, 2), partitions=len(TOPICS))
    batch: list[Message] = [*map(event, range(10)), floor, *map(event, range(11, 20)), beat]
    make(scripted).publish(batch)
    for partition in range(len(TOPICS)):
        found = [sent.message for sent in scripted.sent if sent.partition == partition]
        mine = [
            m for m in batch if not isinstance(m, Upsert) or partition_of(m.key, 3) == partition
        ]
        assert found == mine


@pytest.mark.parametrize(
    "message",
    [
        event(1, snapshot=True),
        Floor(collection="c", version=START),
        Heartbeat(generation=1, watermark=None, partitions=3),
        event(1).model_copy(update={"version": Version(1_700_000_001, 1, 2**12)}),
        event(1, "x" * 20_000),
        event(1, "\udc80"),
    ],
    ids=["snapshot", "floor", "heartbeat", "oversize version", "too large", "no UTF-8"],
)
def test_what_has_no_place_among_the_ids(scripted: Broker, message: Message) -> None:
    """It goes through the producer that numbers anew, so that nothing takes it for stored."""
    make(scripted, max_message_bytes=10_000).publish([message])
    assert {(sent.lane, sent.sequence_id) for sent in scripted.sent} == {("extra", None)}


def test_large_document_travels_as_a_reference(scripted: Broker) -> None:
    """Above the limit, and not at it: key, version and origin arrive without the document."""
    publisher = make(scripted, max_message_bytes=10_000)
    publisher.publish([event(1, "x" * 9_000), event(2, "x" * 10_000, snapshot=True)])
    small, large = (sent.message for sent in scripted.sent)
    assert small == event(1, "x" * 9_000)
    assert large == Reference(key=key_of("c", 2), version=event(2).version, snapshot=True)


def test_a_generation_has_producers_of_its_own(scripted: Broker) -> None:
    """Its versions are counted anew, so ids of the generation before say nothing about it."""
    publisher = make(scripted)
    again = Floor(collection=ALL_COLLECTIONS, version=Version(1_700_000_002, 5))
    publisher.publish([event(1), again, event(2)])
    streams = [sent.producer for sent in scripted.sent if sent.lane == "stream"]
    assert streams == [
        "syncline:stream:1700000000.1:01234567",
        "syncline:stream:1700000002.5:01234567",
    ]


@pytest.mark.parametrize("answer", ["Timeout", "AlreadyClosed", "NotConnected"])
def test_unconfirmed_send(scripted: Broker, answer: str) -> None:
    """It is an outage; the batch can be sent again, with the same ids, over a new connection."""
    publisher = make(scripted)
    scripted.answers = ["Ok", answer]
    batch = [event(1), event(2), event(3)]
    with pytest.raises(Unavailable, match=answer):
        publisher.publish(batch)
    assert (scripted.clients, scripted.closed) == (1, 1)
    first = scripted.sent[0].sequence_id
    scripted.sent.clear()
    publisher.publish(batch)
    assert [sent.message for sent in scripted.sent] == batch
    assert scripted.sent[0].sequence_id == first and scripted.clients == 2


def test_single_message_that_failed(scripted: Broker) -> None:
    """Something behind it may be stored, so its id would make it look stored: it goes without."""
    publisher = make(scripted)
    scripted.answers = ["ChecksumError"]
    with pytest.raises(Unavailable):
        publisher.publish([event(1), event(2)])
    publisher.publish([event(1), event(2)])
    assert {sent.lane for sent in scripted.sent} >= {"extra"}
    publisher.publish([event(3)])
    assert scripted.sent[-1].lane == "stream"


def test_message_that_the_broker_finds_too_big(scripted: Broker) -> None:
    """A person has to change a setting, and is told which."""
    scripted.answers = ["MessageTooBig"]
    with pytest.raises(Misconfigured, match="max_message_bytes"):
        make(scripted).publish([event(1)])


def test_what_an_operator_sees(scripted: Broker) -> None:
    """Confirmed messages by kind, their bytes and the time until they were confirmed."""
    telemetry = Telemetry()
    floor = Floor(collection="c", version=START)
    make(scripted, telemetry=telemetry).publish([event(1), event(2), floor])
    text = telemetry.exposition().decode()
    assert 'syncline_published_total{kind="upsert"} 2.0' in text
    assert 'syncline_published_total{kind="floor"} 1.0' in text
    assert "syncline_publish_seconds_count 1.0" in text
    assert "syncline_published_bytes_total" in text
