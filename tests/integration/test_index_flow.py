"""The index flow on a real broker: any order, acknowledgement, sharing, references, watermark."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.store import Conditional
from models.ids import key_of, partition_of
from models.points import OWN
from models.records import ALL_COLLECTIONS, UNREAD, Delete, Floor, Timestamp, Version
from models.wire import Message, Reference
from syncline.errors import Misconfigured, Unavailable
from syncline.indexing import MAPPING_CHANGED
from syncline.local.mongo import LocalMongo
from syncline.rules import MappingRule
from syncline.verification import verify_worker
from syncline.worker import Worker
from tests.brokers import PARTITIONS, Broker
from tests.indexing import Publisher, Replica, beat, configure, contents, indexing, sweep, texts
from tests.pipeline import Pipeline, gone, paragraphs, put
from tests.servers import Mongo

LAST = 1000


def history(seed: int) -> list[Any]:
    """Edits, deletes, a drop and a new snapshot's floor, in the order in which they happened."""
    chance = random.Random(seed)
    changes: list[Any] = []
    for second in range(100, 220):
        name, collection = chance.randrange(15), chance.choice(["notes", "logs"])
        if chance.random() < 0.2:
            changes.append(gone(name, (second, 1), collection))
        else:
            text = paragraphs(3, p1=f"Edited at {second} by {seed}.")
            changes.append(put(name, (second, 1), collection, text=text, tag=second))
    changes.insert(60, Floor(collection="logs", version=Version(160, 0)))
    changes.insert(30, Floor(collection=ALL_COLLECTIONS, version=Version(130, 0)))
    return changes


@pytest.mark.parametrize("seed", range(3))
def test_any_order_and_any_number_of_times(
    broker: Broker, topic: str, topics: tuple[str, ...], seed: int
) -> None:
    """Reordered and duplicated messages give what the direct path makes of them in order."""
    happened = history(seed)
    direct = Pipeline()
    direct.run(*happened)
    sweep(direct.store, LAST)
    chance = random.Random(seed)
    published = [m for m in happened for _ in range(chance.choice([1, 1, 2, 3]))]
    chance.shuffle(published)
    store, expected = MemoryStore(), contents(direct.store)
    with Publisher(broker, topics) as publisher, indexing(configure(broker, topic), store) as flow:
        publisher.send(*published)

        def is_equal() -> bool:
            # As capture does when nothing happens. What is below a floor is swept on such occasion.
            publisher.send(beat(LAST))
            return contents(store) == expected and flow.index.watermark() == Timestamp(LAST, 0)

        flow.wait_for(is_equal)
    assert expected


def test_the_watermark_is_the_least_of_all(
    broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """A heartbeat in one partition does not move the whole; the slowest one does."""
    store = MemoryStore()
    with Publisher(broker, topics) as publisher, indexing(configure(broker, topic), store) as flow:
        for partition in range(PARTITIONS - 1):
            publisher.send_to(partition, beat(9))
        flow.wait_for(
            lambda: sum(m.watermark is not None for m in flow.index.marks().values()) == 2
        )
        assert flow.index.watermark() is None
        publisher.send_to(PARTITIONS - 1, beat(5))
        flow.wait_for(lambda: flow.index.watermark() == Timestamp(5, 0))
        publisher.send_to(PARTITIONS - 1, beat(12, number=2))
        flow.wait_for(lambda: flow.index.watermark() == Timestamp(9, 0))
        status = flow.status()
    assert status["watermark"] == "9.0"
    assert [p["watermark"] for p in status["partitions"]] == ["9.0", "9.0", "12.0"]
    assert [p["active"] for p in status["partitions"]] == [True] * PARTITIONS


class Entryless(MemoryStore):
    """A store that takes everything but entries, while it `refuses`."""

    refuses = False

    def upsert_conditionally(self, writes: Sequence[Conditional]) -> None:
        kinds = {point.payload[OWN]["kind"] for write in writes for point in write.points}
        if self.refuses and "entry" in kinds:
            raise Unavailable("memory store", "takes no entries")
        super().upsert_conditionally(writes)


def test_a_heartbeat_counts_only_what_is_written(
    broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """While a document before it cannot be written, a heartbeat moves no watermark."""
    store = Entryless()
    with Publisher(broker, topics) as publisher, indexing(configure(broker, topic), store) as flow:
        publisher.send(beat(4))
        flow.wait_for(lambda: flow.index.watermark() == Timestamp(4, 0))
        store.refuses = True
        publisher.send(put(1, (5, 1), text="one"), beat(6, number=2))
        flow.wait_for(lambda: flow.control.waiting)
        flow.wait_for(lambda: flow.control.received)
        assert flow.index.watermark() == Timestamp(4, 0)
        store.refuses = False
        flow.wait_for(lambda: flow.index.watermark() == Timestamp(6, 0))
    assert texts(store) == {key_of("notes", 1): "one"}


def test_a_new_index_on_an_old_subscription(
    broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """It says what it misses and never counts as in line, until everything is published again."""
    config = configure(broker, topic)
    with Publisher(broker, topics) as publisher:
        publisher.send(put(1, (5, 1), text="one"), beat(6))
        with indexing(config, MemoryStore()) as old:
            old.wait_for(lambda: old.index.watermark() == Timestamp(6, 0))
        store = MemoryStore()
        with indexing(config, store) as new:
            publisher.send(put(2, (7, 1), text="two"), beat(8, number=2))
            new.wait_for(lambda: texts(store))
            new.wait_for(lambda: "capture --snapshot" in new.control.waiting.get("snapshot", ""))
            assert new.index.watermark() is None
            assert not new.ready()[0]
            everything = Floor(collection=ALL_COLLECTIONS, version=Version(9, 0), generation=2)
            again = [put(n, (9, 0), text=text) for n, text in ((1, "one"), (2, "two"))]
            publisher.send(everything, *again, beat(9, generation=2))
            new.wait_for(lambda: new.index.watermark() == Timestamp(9, 0))
            assert new.ready()[0]
        assert len(texts(store)) == 2


def test_undecodable_messages(broker: Broker, topic: str, topics: tuple[str, ...]) -> None:
    """Each is recorded once, acknowledged, and does not come again; the flow goes on."""
    document = put(1, (5, 1), text="good")
    store = MemoryStore()
    with Publisher(broker, topics) as publisher:
        publisher.send_to(0, b"", b"\x05\x00\x00\x00\x00", b"nonsense")
        publisher.send(document)
        with indexing(configure(broker, topic), store) as flow:
            flow.wait_for(lambda: len(flow.index.failed(10)) == 3)
            flow.wait_for(lambda: texts(store) and not flow.control.pending)
        failed = Index(store).failed(10)
        publisher.send(beat(9))
        with indexing(configure(broker, topic), store) as again:
            again.wait_for(lambda: again.index.watermark() == Timestamp(9, 0))
            assert again.control.received == 0
    assert len(failed) == 3
    assert {entry.key.collection for entry in failed} == {UNREAD}
    assert all(topics[0].rpartition("/")[2] in entry.key.id for entry in failed)
    assert {entry.failure.step for entry in failed if entry.failure} == {"decode"}
    assert {entry.failure.attempts for entry in failed if entry.failure} == {1}
    assert texts(store) == {document.key: "good"}
    assert Index(store).failed(10) == failed


def test_a_stop_acknowledges_what_is_written(
    broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """After an orderly stop nothing comes again, and what was sent meanwhile does."""
    store = MemoryStore()
    with Publisher(broker, topics) as publisher:
        publisher.send(*(put(n, (5, n), text=str(n)) for n in range(30)))
        with indexing(configure(broker, topic), store) as flow:
            flow.wait_for(lambda: len(texts(store)) == 30)
        publisher.send(put("late", (6, 1), text="late"), beat(9))
        with indexing(configure(broker, topic), store) as again:
            again.wait_for(lambda: again.index.watermark() == Timestamp(9, 0))
            assert again.control.received < 30
    assert len(texts(store)) == 31


class Unflushed(MemoryStore):
    """A store that never becomes durable."""

    def flush(self) -> None:
        raise Unavailable("memory store", "does not flush")


def test_acknowledged_only_after_written(
    broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """A flow that ends before its acknowledgement gets all of it again, and embeds nothing."""
    store = Unflushed()
    with Publisher(broker, topics) as publisher:
        publisher.send(*(put(n, (5, n), text=str(n)) for n in range(30)))
        with indexing(configure(broker, topic), store) as flow:
            flow.wait_for(lambda: len(texts(store)) == 30)
            flow.wait_for(lambda: flow.control.waiting)
            flow.control.abort()
        assert flow.control.acknowledged == 0
        with indexing(configure(broker, topic), store) as again:
            publisher.send(beat(9))
            again.wait_for(lambda: again.index.watermark() == Timestamp(9, 0))
            assert again.control.received >= 30
            assert again.telemetry.embedded_total == 0


def test_other_number_of_partitions(broker: Broker, topic: str, topics: tuple[str, ...]) -> None:
    """A capture flow that writes another number of partitions ends the flow with the remedy."""
    with Publisher(broker, topics) as publisher:
        publisher.send_to(1, beat(5, partitions=PARTITIONS + 1))
        with indexing(configure(broker, topic), MemoryStore()) as flow:
            with pytest.raises(Misconfigured, match=r"pulsar\.partitions"):
                flow.wait_for(lambda: False)
            assert flow.join(10)


def test_references(
    broker: Broker, topic: str, topics: tuple[str, ...], mongo: Mongo, mongo_server: Any
) -> None:
    """A document of 15 MB is read from MongoDB, without what is excluded; a gone one leaves."""
    raw = b"x" * 15_000_000
    mongo.db["notes"].insert_one({"_id": 1, "text": "large", "raw": raw, "secret": "s"})
    version = Version(mongo.now().time, mongo.now().inc)
    config = configure(broker, topic)
    part = config.mongo.model_copy(
        update={
            "database": mongo.db.name,
            "exclude_fields": ("secret",),
            "collections": ("others",),  # which collections are read is capture's to say
        }
    )
    config = config.model_copy(update={"mongo": part})
    messages: list[Message] = [put(2, (5, 1), text="old")]
    messages += [Reference(key=key_of("notes", n), version=version) for n in (1, 2)]
    store = MemoryStore()
    with (
        Publisher(broker, topics) as publisher,
        indexing(config, store, mongo_server.uri) as flow,
    ):
        publisher.send(*messages)
        flow.wait_for(lambda: texts(store) == {key_of("notes", 1): "large"})
    (_, _, [(_, metadata)]) = contents(store)[key_of("notes", 1)]
    assert "secret" not in metadata


def test_references_without_a_database(broker: Broker, topic: str, topics: tuple[str, ...]) -> None:
    """A flow that knows no MongoDB records the document as failed, and goes on."""
    store = MemoryStore()
    reference = Reference(key=key_of("notes", 1), version=Version(5, 1))
    with Publisher(broker, topics) as publisher, indexing(configure(broker, topic), store) as flow:
        publisher.send(reference, put(2, (5, 2), text="small"))
        flow.wait_for(lambda: texts(store) and flow.index.failed(10))
    (failed,) = Index(store).failed(10)
    assert failed.failure is not None
    assert "mongo.uri" in failed.failure.reason
    assert texts(store) == {key_of("notes", 2): "small"}


def test_a_changed_mapping_is_told(
    broker: Broker, topic: str, topics: tuple[str, ...], mongo: Mongo, mongo_server: LocalMongo
) -> None:
    """The flow cannot read again what it has indexed: status says so until verify has mended it."""
    mongo.db["notes"].insert_one({"_id": 1, "text": "by default", "other": "as mapped"})
    version = Version(mongo.now().time, mongo.now().inc)
    config, store = configure(broker, topic), MemoryStore()
    part = config.mongo.model_copy(update={"database": mongo.db.name})
    config = config.model_copy(update={"mongo": part})
    changed = config.model_copy(update={"mapping": {"notes": MappingRule(text=("other",))}})
    with Publisher(broker, topics) as publisher, indexing(config, store) as flow:
        publisher.send(put(1, version, text="by default", other="as mapped"))
        flow.wait_for(lambda: texts(store) == {key_of("notes", 1): "by default"})
        assert flow.status()["warnings"] == []
    with indexing(changed, store) as flow:
        assert flow.status()["warnings"] == [MAPPING_CHANGED]
        worker = Worker(changed, mongo_server.uri, flow.index, flow.embedder)
        assert not verify_worker(worker, deep=False, repair=False).in_sync
        assert flow.status()["warnings"] == [MAPPING_CHANGED]
        assert verify_worker(worker, deep=False, repair=True).in_sync
        assert flow.status()["warnings"] == []
        worker.client.close()
    assert texts(store) == {key_of("notes", 1): "as mapped"}


def test_refused_by_the_database(
    broker: Broker, topic: str, start_server: Callable[..., LocalMongo]
) -> None:
    """A wrong password is told at the start, not when the first large document comes."""
    server = start_server("--auth")
    address = server.uri.removeprefix("mongodb://")
    uri = f"mongodb://syncline:sesame-secret@{address}"
    worker = Replica(configure(broker, topic), MemoryStore(), uri)
    worker.start()
    assert worker.join(10.0)
    with pytest.raises(Misconfigured, match=r"mongo\.uri") as caught:
        worker.wait_for(lambda: False)
    assert "sesame" not in str(caught.value)


def test_a_database_that_is_away_holds_nothing_up(
    broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """Without any reference, a MongoDB that does not answer is not needed; the flow is ready."""
    store = MemoryStore()
    with (
        Publisher(broker, topics) as publisher,
        indexing(configure(broker, topic), store, "mongodb://127.0.0.1:1/") as flow,
    ):
        publisher.send(put(1, (5, 1), text="small"), beat(6))
        flow.wait_for(lambda: flow.index.watermark() == Timestamp(6, 0))
        assert flow.ready() == (True, {})
    assert texts(store) == {key_of("notes", 1): "small"}


def test_replicas_share_the_partitions(broker: Broker, topic: str, topics: tuple[str, ...]) -> None:
    """One replica reads all, gives a second one its share, and takes over when that one stops."""
    store = MemoryStore()
    first, second = (configure(broker, topic, replica=r, replicas=2) for r in range(2))
    everything = [*range(PARTITIONS)]
    with Publisher(broker, topics) as publisher, indexing(first, store) as one:
        one.wait_for(lambda: one.active == everything)
        with indexing(second, store) as other:
            other.wait_for(lambda: other.active == everything[1::2])
            one.wait_for(lambda: one.active == everything[0::2])
            assert (one.reads_first_partition, other.reads_first_partition) == (True, False)
            changes = [put(n, (5, n), text=str(n)) for n in range(40)]
            publisher.send(*changes)
            one.wait_for(lambda: len(texts(store)) == 40)
            taken = [c for c in changes if partition_of(c.key, PARTITIONS) in everything[1::2]]
            assert other.control.received >= len(taken)
        one.wait_for(lambda: one.active == everything)
        publisher.send(*(Delete(key=c.key, version=Version(6, 1)) for c in changes))
        one.wait_for(lambda: not texts(store))


def test_a_partitioned_topic_is_left_to_the_broker(broker: Broker, topic: str) -> None:
    """Its partitions are subscribed to as Failover, acknowledged, and gone on with."""
    whole = f"{topic}-partition-0"
    store = MemoryStore()
    config = configure(broker, whole, plain=False)
    with Publisher(broker, [whole]) as publisher:
        publisher.send(*(put(n, (5, n), text=str(n)) for n in range(30)), beat(7, partitions=1))
        with indexing(config, store) as flow:
            flow.wait_for(lambda: flow.index.watermark() == Timestamp(7, 0))
            assert flow.active == [0]
        publisher.send(put("late", (6, 1), text="late"), beat(9, partitions=1, number=2))
        with indexing(config, store) as again:
            again.wait_for(lambda: again.index.watermark() == Timestamp(9, 0))
            assert again.control.received < 30
    assert len(texts(store)) == 31
