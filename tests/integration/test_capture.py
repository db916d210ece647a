"""Capture against real servers: MongoDB's changes in a broker's topics, through kills of both."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from pydantic import SecretStr

from connectors.pulsar_position import SUBSCRIPTION, PositionTopic
from connectors.pulsar_publisher import Publisher
from models.ids import key_of, partition_of
from models.records import (
    Change,
    Delete,
    Floor,
    Key,
    Timestamp,
    Upsert,
    Version,
)
from models.wire import Heartbeat, Message, Reference, sequence_id
from syncline.capture import CaptureWorker
from syncline.errors import Misconfigured
from syncline.local.mongo import LocalMongo
from syncline.settings import Configuration, MongoSettings, PulsarSettings
from syncline.telemetry import Telemetry
from tests.brokers import PARTITIONS, WAIT_SECONDS, Broker, Refusing, Tail
from tests.servers import Mongo
from tests.sourcing import fold

Start = Callable[..., CaptureWorker]
Topics = tuple[str, ...]


def wait_for(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def capture(mongo: Mongo, mongo_server: LocalMongo, topic: str) -> Iterator[Start]:
    """Starts captures of the test's database into its topic, and ends them."""
    running: list[CaptureWorker] = []

    def start(broker: Broker, *, snapshot: bool = False, **pulsar: Any) -> CaptureWorker:
        config = Configuration(
            mongo=MongoSettings(database=mongo.db.name),
            pulsar=PulsarSettings(
                url=broker.url, topic=topic, plain_topics=True, partitions=PARTITIONS, **pulsar
            ),
        )
        worker = CaptureWorker(config, mongo_server.uri, snapshot=snapshot)
        worker.start()
        running.append(worker)
        return worker

    yield start
    for worker in running:
        stop(worker)


def stop(worker: CaptureWorker) -> None:
    worker.control.request_stop()
    assert worker.join(10.0)


def changes(messages: list[list[Message]]) -> list[Change]:
    return [
        message
        for partition in messages
        for message in partition
        if isinstance(message, Upsert | Delete | Floor)
    ]


def holds(messages: list[list[Message]], mongo: Mongo, *names: str) -> bool:
    """Whether whoever applies the messages has what the collections have."""
    wanted = {key_of(name, d["_id"]): d for name in names for d in mongo.db[name].find()}
    return fold(changes(messages)) == wanted


# --- what arrives ---------------------------------------------------------------------------------


def test_every_kind_of_event(capture: Start, broker: Broker, mongo: Mongo, topics: Topics) -> None:
    """What a snapshot found, inserts, edits, deletes and drops arrive, each where it belongs."""
    mongo.db["old"].insert_many([{"_id": n} for n in range(10)])
    mongo.db["gone"].insert_one({"_id": 1})
    with Tail(broker, topics) as tail:
        capture(broker)
        tail.wait_for(lambda found: holds(found, mongo, "old", "gone"))
        for n in range(20):
            mongo.db["new"].insert_one({"_id": n, "a": 0})
            mongo.db["new"].update_one({"_id": n}, {"$set": {"a": 1}})
        mongo.db["new"].delete_one({"_id": 3})
        mongo.db["gone"].drop()
        found = tail.wait_for(lambda found: holds(found, mongo, "old", "new"))
    for partition, messages in enumerate(found):
        keys = {m.key for m in messages if isinstance(m, Upsert | Delete)}
        assert {partition_of(key, PARTITIONS) for key in keys} <= {partition}
        assert in_order(messages)
    snapshot = {m.key.collection for m in changes(found) if isinstance(m, Upsert) and m.snapshot}
    assert snapshot == {"old", "gone"}


def in_order(messages: list[Message]) -> bool:
    """Whether the stream's events stand in its order."""
    stream = [
        m.version
        for m in messages
        if isinstance(m, Delete | Floor) or (isinstance(m, Upsert) and not m.snapshot)
    ]
    return stream == sorted(stream)


def test_floors_stand_at_the_same_place(
    capture: Start, broker: Broker, mongo: Mongo, topics: Topics
) -> None:
    """In every partition a drop stands behind what it ends and before what follows."""
    with Tail(broker, topics) as tail:
        capture(broker)
        tail.wait_for(lambda found: all(found))
        mongo.db["c"].insert_many([{"_id": n, "life": 1} for n in range(30)])
        mongo.db["c"].drop()
        mongo.db["c"].insert_many([{"_id": n, "life": 2} for n in range(30)])
        found = tail.wait_for(lambda found: holds(found, mongo, "c"))
    for messages in found:
        kinds = [
            "floor" if isinstance(m, Floor) else m.fields["life"]
            for m in messages
            if isinstance(m, Upsert) or (isinstance(m, Floor) and m.collection == "c")
        ]
        place = kinds.index("floor")
        assert set(kinds[:place]) == {1} and set(kinds[place + 1 :]) == {2}


def test_large_document(capture: Start, broker: Broker, mongo: Mongo, topics: Topics) -> None:
    """15 MB travel as a reference, found by the snapshot or brought by the stream."""
    text = "x" * 15_000_000
    mongo.db["c"].insert_one({"_id": 1, "text": text})
    with Tail(broker, topics) as tail:
        capture(broker)
        references(tail, {1: True})
        mongo.db["c"].insert_one({"_id": 2, "text": text})
        references(tail, {1: True, 2: False})


def references(tail: Tail, wanted: Mapping[int, bool]) -> None:
    """Wait for references to documents, each with whether a snapshot found it."""
    keys = {key_of("c", n): found for n, found in wanted.items()}

    def arrived(messages: list[list[Message]]) -> bool:
        found = [m for partition in messages for m in partition if isinstance(m, Reference)]
        return {m.key: m.snapshot for m in found} == keys

    tail.wait_for(arrived)


def test_idle_heartbeats(capture: Start, broker: Broker, mongo: Mongo, topics: Topics) -> None:
    """With nothing to do, every partition hears each second, and the watermark goes on."""
    with Tail(broker, topics) as tail:
        capture(broker)
        first = beats(tail.wait_for(lambda found: all(beats(found))))
        tail.wait_for(
            lambda found: all(
                len(now) >= len(before) + 4 and now[-1].watermark > before[-1].watermark
                for now, before in zip(beats(found), first, strict=True)
            )
        )
        sent = [[message.publish_timestamp() for message in messages] for messages in tail.raw()]
    for times_ms in sent:
        assert median(after - before for before, after in pairwise(times_ms)) < 1_500
    for heard in first:
        assert {beat.partitions for beat in heard} == {PARTITIONS}
        assert len({beat.generation for beat in heard}) == 1
        assert all(now.beat - before.beat in (0, 1) for before, now in pairwise(heard))


def beats(messages: list[list[Message]]) -> list[list[Any]]:
    """The heartbeats with a watermark, by partition."""
    return [[m for m in ms if isinstance(m, Heartbeat) and m.watermark] for ms in messages]


def test_a_heartbeat_stands_behind_what_it_covers(
    capture: Start, broker: Broker, mongo: Mongo, topics: Topics
) -> None:
    """No event of the stream comes first behind a heartbeat whose watermark covers it."""
    with Tail(broker, topics) as tail:
        capture(broker)
        tail.wait_for(lambda found: all(beats(found)))
        for n in range(200):
            mongo.db["c"].insert_one({"_id": n})
        now = mongo.now()
        end = Timestamp(now.time, now.inc)
        found = tail.wait_for(
            lambda found: all(heard and heard[-1].watermark >= end for heard in beats(found))
        )
    assert holds(found, mongo, "c")
    for messages in found:
        seen: set[Version] = set()
        passed = Timestamp(0, 0)
        for message in messages:
            if isinstance(message, Heartbeat) and message.watermark:
                passed = max(passed, message.watermark)
            elif isinstance(message, Upsert) and message.version not in seen:
                assert Timestamp(*message.version[:2]) > passed
                seen.add(message.version)


# --- restarts -------------------------------------------------------------------------------------


def test_restart_of_capture(
    capture: Start, broker: Broker, mongo: Mongo, topic: str, topics: Topics
) -> None:
    """From an older position, as a crash leaves it: what followed comes again, nothing is skipped,
    and no snapshot is taken."""
    mongo.db["c"].insert_many([{"_id": n} for n in range(5)])
    with Tail(broker, topics) as tail:
        first = capture(broker)
        tail.wait_for(lambda found: holds(found, mongo, "c"))
        wait_for(lambda: first.control.state == "streaming" and not first.control.pending)
        generation = first.status()["generation"]
        stop(first)
        kept = PositionTopic(broker.connect, topic)
        crashed = kept.load()
        mongo.db["c"].insert_many([{"_id": n} for n in range(5, 40)])
        second = capture_once(capture, broker, kept)
        tail.wait_for(lambda found: holds(found, mongo, "c"))
        stop(second)
        assert crashed is not None
        kept.put(crashed)
        mongo.db["c"].insert_one({"_id": 40})
        third = capture_once(capture, broker, kept)
        expected = {key_of("c", n): 2 if 5 <= n < 40 else 1 for n in range(41)}
        tail.wait_for(lambda found: times(found) == expected)
        assert third.status()["generation"] == generation


def test_a_snapshot_that_is_asked_for(
    capture: Start, broker: Broker, mongo: Mongo, topic: str, topics: Topics
) -> None:
    """Everything comes once more, as a newer generation; and so when the position is lost."""
    mongo.db["c"].insert_many([{"_id": n} for n in range(5)])
    generations = []
    with Tail(broker, topics) as tail:
        for round_, snapshot in enumerate([False, True, False], start=1):
            worker = capture(broker, snapshot=snapshot)
            tail.wait_for(partial(came_so_often, round_))
            wait_for(partial(is_settled, worker))
            generations.append(worker.status()["generation"])
            stop(worker)
            if round_ == 2:
                forget_position(broker, topic)
        tail.wait_for(lambda found: begun(found) == [generations] * PARTITIONS)
    assert generations == sorted(set(generations))


def begun(messages: list[list[Message]]) -> list[list[int]]:
    """The generations that begin in each partition."""
    return [[m.generation for m in ms if isinstance(m, Floor) and m.generation] for ms in messages]


def came_so_often(times_: int, messages: list[list[Message]]) -> bool:
    return set(times(messages).values()) == {times_}


def is_settled(worker: CaptureWorker) -> bool:
    return worker.control.state == "streaming" and not worker.control.pending


def forget_position(broker: Broker, topic: str) -> None:
    """Let all of the topic go that keeps it."""
    with broker.connected() as client:
        consumer = client.subscribe(f"{topic}-position", SUBSCRIPTION)
        consumer.acknowledge_cumulative(consumer.get_last_message_id())
        consumer.close()
    kept = PositionTopic(broker.connect, topic)
    assert kept.load() is None
    kept.close()


def capture_once(capture: Start, broker: Broker, kept: PositionTopic) -> CaptureWorker:
    """A capture, which needs the position for itself."""
    kept.close()
    return capture(broker)


def times(messages: list[list[Message]]) -> Mapping[Key, int]:
    """How often each document was sent."""
    return Counter(m.key for m in changes(messages) if isinstance(m, Upsert))


def test_replayed_events_have_the_same_ids(broker: Broker, topics: Topics) -> None:
    """After a lost position everything comes again in the same order, so its ids rise again."""
    events: list[Message] = [
        Upsert(key=Key("c", str(n)), version=Version(1_700_000_001, n), fields={"_id": n})
        for n in range(50)
    ]
    with Tail(broker, topics) as tail:
        for _ in range(2):
            publisher = publish_to(broker, topics)
            publisher.publish(events)
            publisher.close()
        found = tail.wait_for(lambda found: sum(map(len, found)) >= 2 * len(events))
    for messages in found:
        half = len(messages) // 2
        assert messages[:half] == messages[half:]
        ids = [sequence_id(m.version) or 0 for m in messages[:half] if isinstance(m, Upsert)]
        assert all(ids) and ids == sorted(set(ids))


def publish_to(broker: Broker, topics: Topics) -> Publisher:
    return Publisher(broker.connect, topics, scope="scope", telemetry=Telemetry())


def test_broker_killed_while_publishing(
    capture: Start, own_broker: Broker, mongo: Mongo, topics: Topics
) -> None:
    """What is written meanwhile arrives, in order, without a restart of capture; a wait shows."""
    worker = capture(own_broker)
    wait_for(lambda: worker.ready()[0])
    with writing(mongo):
        for wait_shows in (False, True):
            wait_for(partial(has_published, worker, worker.telemetry.published_total + 20))
            own_broker.kill()
            if wait_shows:
                wait_for(lambda: "pulsar" in worker.ready()[1])
            own_broker.restart()
            wait_for(lambda: worker.ready()[0])
    with Tail(own_broker, topics) as tail:
        found = tail.wait_for(lambda found: holds(found, mongo, "c"))
    assert worker.control.error is None
    for messages in found:
        first_seen = dict.fromkeys(m.version for m in messages if isinstance(m, Upsert | Delete))
        assert list(first_seen) == sorted(first_seen)


def has_published(worker: CaptureWorker, messages: int) -> bool:
    return worker.telemetry.published_total >= messages


@contextmanager
def writing(mongo: Mongo) -> Iterator[None]:
    """Somebody writes as long as the block runs."""
    over = threading.Event()

    def write() -> None:
        n = 0
        while not over.wait(0.002):
            n += 1
            mongo.db["c"].replace_one({"_id": n % 50}, {"n": n}, upsert=True)
            if n % 7 == 0:
                mongo.db["c"].delete_one({"_id": n % 50})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def test_stop_while_the_broker_is_away(capture: Start, own_broker: Broker, mongo: Mongo) -> None:
    """It does not wait for the broker to come back."""
    worker = capture(own_broker)
    wait_for(lambda: worker.ready()[0])
    own_broker.kill()
    mongo.db["c"].insert_one({"_id": 1})
    wait_for(lambda: "pulsar" in worker.ready()[1])
    stop(worker)


def test_second_capture_waits(capture: Start, broker: Broker, mongo: Mongo, topics: Topics) -> None:
    """One at a time, visibly; the second takes over where the first has come to."""
    mongo.db["c"].insert_one({"_id": 1})
    with Tail(broker, topics) as tail:
        first = capture(broker)
        tail.wait_for(lambda found: holds(found, mongo, "c"))
        wait_for(partial(is_settled, first))
        generation = first.status()["generation"]
        second = capture(broker)
        wait_for(lambda: "another capture" in second.ready()[1].get("pulsar", ""))
        assert first.ready()[0] and second.control.state == "waiting"
        stop(first)
        wait_for(lambda: second.ready()[0], 40.0)
        mongo.db["c"].insert_one({"_id": 2})
        tail.wait_for(lambda found: holds(found, mongo, "c"))
    assert second.status()["generation"] == generation


def test_broker_that_is_not_there(capture: Start, mongo: Mongo, own_broker: Broker) -> None:
    """It is waited for from the start, and a stop ends the wait."""
    own_broker.kill()
    worker = capture(own_broker)
    wait_for(lambda: "pulsar" in worker.ready()[1])
    assert worker.control.error is None
    stop(worker)


def test_capture_without_a_broker(mongo_server: LocalMongo) -> None:
    """It is refused, with the setting's name."""
    with pytest.raises(Misconfigured, match=r"pulsar\.url"):
        CaptureWorker(Configuration(), mongo_server.uri)


def test_status(capture: Start, broker: Broker, mongo: Mongo) -> None:
    """An operator sees where capture stands."""
    mongo.db["c"].insert_one({"_id": 1})
    worker = capture(broker)
    wait_for(lambda: worker.status()["watermark"] is not None)
    status = worker.status()
    assert status["partitions"] == PARTITIONS and status["published_total"] > 0
    assert status["state"] == "streaming" and status["lag_seconds"] is not None


# --- credentials ----------------------------------------------------------------------------------


def test_refused_token(mongo_server: LocalMongo, mongo: Mongo) -> None:
    """One clear error that does not tell the token, and nobody knocks again and again."""
    with Refusing() as refusing:
        pulsar = PulsarSettings(url=refusing.url, token=SecretStr("eyJhbGciOi.secret.sig"))
        config = Configuration(mongo=MongoSettings(database=mongo.db.name), pulsar=pulsar)
        worker = CaptureWorker(config, mongo_server.uri)
        worker.start()
        assert worker.join(20.0)
    error = worker.control.error
    assert isinstance(error, Misconfigured) and "pulsar.token" in str(error)
    assert "secret" not in f"{error} {worker.ready()} {worker.status()}"
    assert refusing.connections <= 2
