"""Index flows on a real broker: publishing by hand, running replicas, reading what they made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pulsar

from connectors.index import Index
from connectors.pulsar_consumers import Turns
from connectors.store import Store
from models import points
from models.embedders import HashEmbedder
from models.ids import partition_of
from models.records import ALL_COLLECTIONS, Entry, Floor, Key, Timestamp, Version
from models.wire import Heartbeat, Message, encode
from syncline.indexing import IndexWorker
from syncline.settings import Configuration
from tests.brokers import PARTITIONS, WAIT_SECONDS, Broker
from tests.pipeline import ANYTHING, DIMENSION, MAX_TOKENS

QUICK = Turns(stand_by=0.5, hold=2.0, leave=2.0)


class Publisher:
    """Sends messages to the partitions of a topic, as a context."""

    def __init__(self, broker: Broker, topics: Sequence[str]) -> None:
        self._client = broker.connect()
        self._producers = [
            self._client.create_producer(
                topic,
                block_if_queue_full=True,
                # As capture does it: a batch for each message.
                batching_enabled=True,
                batching_max_allowed_size_in_bytes=1,
            )
            for topic in topics
        ]

    def __enter__(self) -> Publisher:
        # As capture does it first: what follows is everything.
        self.send(Floor(collection=ALL_COLLECTIONS, version=Version(1, 0), generation=1))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def send(self, *messages: Message) -> None:
        """Each to its partition, floors and heartbeats to all; returns when all are stored."""
        for message in messages:
            for partition in self._partitions(message):
                self._producers[partition].send_async(encode(message), _ignore)
        self._flush()

    def send_to(self, partition: int, *payloads: bytes | Message) -> None:
        """To this partition, whatever it is."""
        for payload in payloads:
            raw = payload if isinstance(payload, bytes) else encode(payload)
            self._producers[partition].send_async(raw, _ignore)
        self._flush()

    def _partitions(self, message: Message) -> Sequence[int]:
        if isinstance(message, Floor | Heartbeat):
            return range(len(self._producers))
        return [partition_of(message.key, len(self._producers))]

    def _flush(self) -> None:
        for producer in self._producers:
            producer.flush()


def _ignore(result: pulsar.Result, message_id: Any) -> None:
    assert result == pulsar.Result.Ok


def beat(
    seconds: int,
    partitions: int = PARTITIONS,
    *,
    number: int = 1,
    generation: int = 1,
) -> Heartbeat:
    """The first heartbeat of a generation, or another one."""
    return Heartbeat(
        generation=generation,
        beat=number,
        watermark=Timestamp(seconds, 0),
        partitions=partitions,
    )


def configure(
    broker: Broker, topic: str, *, plain: bool = True, replica: int = 0, replicas: int = 1
) -> Configuration:
    """One replica of an index flow from the broker's topic."""
    return Configuration.model_validate(
        {
            "pulsar": {
                "url": broker.url,
                "topic": topic,
                "plain_topics": plain,
                "partitions": PARTITIONS,
                "replica": replica,
                "replicas": replicas,
            }
        }
    )


class Replica(IndexWorker):
    """An `IndexWorker` that tests can look into."""

    def __init__(self, config: Configuration, store: Store, uri: str = "") -> None:
        embedder = HashEmbedder(DIMENSION, MAX_TOKENS)
        super().__init__(config, uri, Index(store), embedder, turns=QUICK)

    @property
    def active(self) -> list[int]:
        """The partitions that it reads."""
        return [part["partition"] for part in self.status()["partitions"] if part["active"]]

    def lose_partitions(self) -> None:
        """As if the broker had given all of them to others; the flow does not notice."""
        self.wait_for(lambda: self._consumers is not None)
        assert self._consumers is not None
        self._consumers.close()

    def wait_for(self, condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
        """Poll until it holds. The error that ended the flow is raised."""

        def holds() -> Any:
            if found := condition():
                return found
            if self.control.error is not None:
                raise self.control.error
            return False

        try:
            wait_for(holds, seconds)
        except AssertionError as error:
            control = self.control
            told = f"received {control.received}, pending {control.pending}, {control.waiting}"
            raise AssertionError(f"{error}: {told}, active {self.active}") from error

    def wait_for_contents(self, expected: Contents) -> None:
        """Wait until the index holds exactly this, and all that was received is acknowledged."""
        store = self.index.store
        self.wait_for(lambda: contents(store) == expected and not self.control.pending)

    def stop(self, seconds: float = 10.0) -> None:
        """Stop it in order."""
        self.control.request_stop()
        assert self.join(seconds), f"the flow did not end within {seconds} s"


@contextmanager
def indexing(config: Configuration, store: Store, uri: str = "") -> Iterator[Replica]:
    """A running replica, stopped afterwards."""
    replica = Replica(config, store, uri)
    replica.start()
    try:
        replica.wait_for(lambda: replica.control.state != "starting")
        yield replica
    finally:
        replica.stop()


def wait_for(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


Contents = Mapping[Key, tuple[Any, ...]]


def contents(store: Store) -> Contents:
    """What readers see: version, chunks in order and metadata of each indexed document."""
    if not store.exists():
        return {}
    index = Index(store)
    entries = [entry for entry in _entries(index) if entry.state == "indexed"]
    payloads = {point.id: point.payload for point in index.scroll(ANYTHING)}
    hidden = index.hidden_below({entry.key.collection for entry in entries})
    return {
        e.key: (e.version, e.title, [_chunk(payloads.get(id_)) for id_ in e.chunks])
        for e in entries
        if e.version >= hidden.get(e.key.collection, e.version)
    }


def _entries(index: Index) -> list[Entry]:
    found = index.scroll(points.of_kind("entry"))
    return [points.read_entry(stored.payload) for stored in found]


def _chunk(payload: Mapping[str, Any] | None) -> Any:
    return payload and (payload["page_content"], payload["metadata"])


def sweep(store: Store, watermark: int) -> None:
    """Sweep all of an index, as its flow does in time."""
    Index(store).sweep(Timestamp(watermark, 0), keep_seconds=10**6, more=lambda: True)


def texts(store: Store) -> dict[Key, str]:
    """The first chunk's text of every document."""
    firsts = {key: chunks[0] for key, (_, _, chunks) in contents(store).items() if chunks}
    return {key: first[0] for key, first in firsts.items() if first is not None}
