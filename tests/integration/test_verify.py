"""`verify` against a real change stream, a running flow and Qdrant's own engine."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import numpy as np
import pytest
from bson import Decimal128, Int64, ObjectId

from connectors.index import Index
from connectors.mongo import MongoScope
from connectors.mongo_reader import MongoReader
from connectors.mongo_source import MongoSource
from connectors.qdrant_edge import EdgeStore
from connectors.store import Point
from flows.acknowledge import Acknowledge
from flows.apply import Applier
from flows.sync import build_flow, run_flow
from flows.verify import VerifyReport, verify
from models.ids import entry_id, key_of, key_text, public_id
from models.points import OWN, entry_payload
from models.records import Entry, Item, Key, Version
from retriever.comparing import Turn
from syncline.control import Control
from syncline.settings import Configuration
from syncline.verification import verify_worker
from syncline.worker import Worker
from tests.pipeline import DIMENSION, Pipeline, paragraphs
from tests.servers import Mongo

IDS: list[Any] = [
    *("plain", "7", "", "naïve 鯨", 7, 7.5, Int64(2**60), True, None),
    *(ObjectId(), UUID(int=5), b"\x00\xff", Decimal128("1.50"), {"b": 1, "a": {"c": "x"}}),
    datetime(2026, 1, 31, 12, 30, 15, 123000, tzinfo=timezone.utc),
]


class SlowApplier(Applier):
    """As slow as a model: most of the time something is written and not yet applied."""

    def apply(self, batch: Sequence[Item]) -> None:
        time.sleep(0.1)
        super().apply(batch)


class Synced:
    """A database, an index on disk, and a flow between them that can be started and stopped."""

    def __init__(self, mongo: Mongo, path: Path) -> None:
        self.mongo = mongo
        self.store = EdgeStore(path)
        self.pipeline = Pipeline(self.store)
        self.reader = MongoReader(mongo.client, mongo.scope)
        self._control = Control()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._control = Control()
        source = MongoSource(
            self.mongo.client,
            self.mongo.scope,
            load_position=self.pipeline.index.position,
            acknowledge=Acknowledge(self.pipeline.index, self._control, tombstone_seconds=3600),
            scope_fingerprint="test",
            control=self._control,
        )
        applier = SlowApplier(
            self.pipeline.index,
            self.pipeline.embedder,
            self.pipeline.steps.prepare,
            control=self._control,
            telemetry=self.pipeline.telemetry,
        )
        flow = build_flow(source, self.pipeline.steps, applier, self._control)
        self._thread = threading.Thread(
            target=run_flow, args=[flow], kwargs={"epoch_milliseconds": 20}
        )
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._control.request_stop()
            self._thread.join(20)
            assert not self._thread.is_alive()
            assert self._control.error is None
            self._thread = None

    def settle(self) -> None:
        """Wait until everything written so far is in the index."""
        noted = self.mongo.now()
        deadline = time.monotonic() + 30
        while self._watermark() < (noted.time, noted.inc):
            assert time.monotonic() < deadline
            assert self._control.error is None
            time.sleep(0.01)

    def _watermark(self) -> tuple[int, int]:
        position = self.pipeline.index.position()
        return position.watermark if position and position.watermark else (0, 0)

    def verify(self, *, repairing: bool = False, **options: Any) -> VerifyReport:
        apply = self.pipeline.applier.apply if repairing else None
        return verify(
            self.pipeline.index, self.reader, self.pipeline.steps, repair=apply, **options
        )


@pytest.fixture
def synced(mongo: Mongo, tmp_path: Path) -> Iterator[Synced]:
    synced = Synced(mongo, tmp_path / "index")
    yield synced
    synced.stop()
    synced.store.close()


def test_ids_of_every_type_are_found_from_both_sides(synced: Synced) -> None:
    """In sync while they are there, orphaned once they are gone."""
    synced.mongo.db.notes.insert_many([{"_id": id_, "text": f"note {id_}"} for id_ in IDS])
    synced.start()
    synced.settle()
    report = synced.verify(deep=True)
    assert report.found == {}
    assert report.documents == report.entries == len(IDS)
    synced.stop()
    synced.mongo.db.notes.delete_many({})
    assert synced.verify(settle_seconds=0).counts == {"orphaned_document": len(IDS)}
    assert synced.verify(settle_seconds=0, repairing=True).in_sync
    assert synced.pipeline.index.counts().indexed == 0


def test_corruption_on_disk_is_found_and_repaired(synced: Synced) -> None:
    """A lost entry, a lost chunk and an altered payload, beside a running flow."""
    for number in range(6):
        text = paragraphs(20, p3=f"Only in {number}.")
        synced.mongo.db.notes.insert_one({"_id": number, "text": text, "tag": "x", "n": 1.5})
    synced.start()
    synced.settle()
    index, keys = synced.pipeline.index, [key_of("notes", number) for number in range(6)]
    entries = index.entries(keys)
    index.delete([entry_id(keys[0]), entries[keys[1]].chunks[2]])
    index.put_metadata(entries[keys[2]].chunks[:1], {"tag": "y"}, entries[keys[2]].version)
    index.store.set_payload(entries[keys[3]].chunks[:1], {"page_content": "altered"})
    embedded = synced.pipeline.telemetry.embedded_total
    report = synced.verify(deep=True, repairing=True, settle_seconds=1)
    assert report.found == {"missing": 1, "missing_chunk": 1, "stale": 2}
    assert (report.in_sync, report.repaired) == (True, 4)
    assert synced.pipeline.telemetry.embedded_total - embedded <= 1
    assert synced.verify(deep=True).found == {}


Damage = Callable[[Index, Entry], None]
DAMAGE: dict[str, Damage] = {
    "missing entry": lambda index, entry: index.delete([entry_id(entry.key)]),
    "tombstone": lambda index, e: put_entry(index, e, state="deleted", chunks=()),
    "recorded as failed": lambda index, e: put_entry(index, e, state="failed"),
    "stale digest": lambda index, e: put_entry(index, e, digest="0" * 32),
    "stale metadata": lambda index, e: put_entry(index, e, metadata_digest=""),
    "version ahead": lambda index, e: put_entry(index, e, version=Version(2**31, 1)),
    "wrong order": lambda index, e: put_entry(index, e, chunks=e.chunks[::-1]),
    "too few chunks": lambda index, e: put_entry(index, e, chunks=e.chunks[1:]),
    "too many chunks": lambda index, e: put_entry(
        index, e, chunks=(*e.chunks, entry_id(key_of("no", 0)))
    ),
    "etag that fits nothing": lambda index, e: index.store.set_payload(
        [entry_id(e.key)], {"digest": "x"}, at=(OWN,)
    ),
    "missing chunk": lambda index, e: index.delete([e.chunks[1]]),
    "wrong text": lambda index, e: index.store.set_payload(
        e.chunks[1:2], {"page_content": "altered"}
    ),
    "wrong metadata": lambda index, e: index.store.set_payload(
        e.chunks[1:2], {"metadata": {"tag": "z"}}
    ),
    "wrong document": lambda index, e: index.store.set_payload(
        e.chunks[1:2], {"document_id": "z"}, at=(OWN,)
    ),
    "wrong collection": lambda index, e: index.store.set_payload(
        e.chunks[1:2], {"collection": "z"}, at=(OWN,)
    ),
    "another's key": lambda index, e: index.store.set_payload(
        e.chunks[1:2], {"key": "hurt/1003"}, at=(OWN,)
    ),
    "missing vector": lambda index, e: put_vector(index, e, None),
    "null vector": lambda index, e: put_vector(index, e, np.zeros(DIMENSION, np.float32)),
    "orphaned chunk": lambda index, e: copy_chunk(index, e, e.key),
    "orphaned chunk of nothing": lambda index, e: copy_chunk(index, e, key_of("notes", "none")),
    "orphaned document": lambda index, e: put_entry(index, e, key=key_of("notes", "gone")),
}


def put_entry(index: Index, entry: Entry, **changes: Any) -> None:
    changed = entry.model_copy(update=changes)
    index.store.upsert([Point(entry_id(changed.key), entry_payload(changed))])


def put_vector(index: Index, entry: Entry, dense: Any) -> None:
    (stored,) = index.store.retrieve(entry.chunks[1:2])
    index.store.upsert([Point(stored.id, stored.payload, dense)])


def copy_chunk(index: Index, entry: Entry, key: Key) -> None:
    """A chunk that no entry lists."""
    (stored,) = index.store.retrieve(entry.chunks[:1], dense=True)
    own = {**stored.payload[OWN], "key": key_text(key), "document_id": public_id(key)}
    id_ = entry_id(key_of("copied", key_text(key)))
    index.store.upsert([Point(id_, {**stored.payload, OWN: own}, stored.dense)])


def test_every_kind_of_damage_is_mended_beside_the_flow(synced: Synced) -> None:
    """All at once, each on a document of its own, while writers write to others."""
    numbers = range(1_000, 1_000 + len(DAMAGE))
    synced.mongo.db.hurt.insert_many(
        [{"_id": n, "text": paragraphs(9, p4=f"Only in {n}."), "tag": "x"} for n in numbers]
    )
    synced.mongo.db.notes.insert_many([{"_id": n, "text": paragraphs(5)} for n in range(100)])
    synced.start()
    synced.settle()
    index, keys = synced.pipeline.index, [key_of("hurt", n) for n in numbers]
    stop = threading.Event()
    writer = threading.Thread(target=_write, args=[synced.mongo.db, stop])
    writer.start()
    try:
        entries = index.entries(keys)
        before = {entry.key: entry.chunks for entry in entries.values()}
        for key, damage in zip(keys, DAMAGE.values(), strict=True):
            damage(index, entries[key])
        report = synced.verify(deep=True, repairing=True, settle_seconds=30)
    finally:
        stop.set()
        writer.join()
    assert (report.in_sync, report.unsettled) == (True, 0), report
    assert report.repaired >= len(DAMAGE), report.found
    assert report.orphaned_chunks >= 2
    synced.settle()
    assert {entry.key: entry.chunks for entry in index.entries(keys).values()} == before
    # And each of them takes the next change.
    synced.mongo.db.hurt.update_many({}, {"$set": {"tag": "y"}})
    synced.settle()
    after = synced.verify(deep=True)
    assert (after.found, after.orphaned_chunks) == ({}, 0)


def test_no_false_alarm_while_writers_write(synced: Synced) -> None:
    """Inserts, edits, deletes and a drop beside the comparison: what moves is no drift."""
    notes = synced.mongo.db.notes
    notes.insert_many([{"_id": n, "text": paragraphs(5), "n": n} for n in range(100)])
    synced.mongo.db.gone.insert_many([{"_id": n, "text": "gone"} for n in range(50)])
    synced.start()
    synced.settle()
    stop = threading.Event()
    writer = threading.Thread(target=_write, args=[synced.mongo.db, stop])
    writer.start()
    try:
        reports = [synced.verify(deep=deep, settle_seconds=30) for deep in (False, True, False)]
    finally:
        stop.set()
        writer.join()
    assert [(report.in_sync, report.examples) for report in reports] == [(True, ())] * 3
    synced.settle()
    report = synced.verify(deep=True)
    assert report.found == {}
    # Entries of the dropped collection may still await their sweep.
    assert report.entries >= report.documents > 100


def _write(db: Any, stop: threading.Event) -> None:
    """Each kind of write in turn, on few documents, so that they are met again and again."""
    choice, fresh = random.Random(7), 1_000
    while not stop.wait(0.02):
        number, fresh = choice.randrange(100), fresh + 1
        db.notes.update_one({"_id": number}, {"$set": {"text": paragraphs(5, p2=f"{fresh}")}})
        db.notes.update_one({"_id": choice.randrange(100)}, {"$set": {"n": fresh}})
        db.notes.insert_one({"_id": fresh, "text": f"fresh {fresh}"})
        db.notes.delete_one({"_id": fresh - choice.randrange(1, 4)})
        if fresh == 1_010:
            db.gone.drop()


def test_a_repair_beside_writers_converges(synced: Synced) -> None:
    """Repairs at a time noted before reading never undo what the flow applies meanwhile."""
    notes = synced.mongo.db.notes
    notes.insert_many([{"_id": n, "text": paragraphs(5), "n": n} for n in range(100)])
    synced.start()
    synced.settle()
    index = synced.pipeline.index
    stop = threading.Event()
    writer = threading.Thread(target=_write, args=[synced.mongo.db, stop])
    writer.start()
    try:
        index.delete([entry_id(key_of("notes", n)) for n in range(0, 100, 2)])
        report = synced.verify(deep=True, repairing=True, settle_seconds=30)
    finally:
        stop.set()
        writer.join()
    assert report.in_sync
    assert report.repaired > 0
    synced.settle()
    assert synced.verify(deep=True).found == {}


def test_the_request_that_waits_hears_how_far_it_is(synced: Synced) -> None:
    """A worker's comparison reports to whoever asked for it, with nobody in between."""
    synced.mongo.db.notes.insert_one({"_id": 1, "text": "note"})
    synced.start()
    synced.settle()
    synced.stop()
    parts: dict[str, Any] = {"reader": lambda: synced.reader, "index": synced.pipeline.index}
    parts |= {"steps": synced.pipeline.steps}
    worker = SimpleNamespace(**parts, config=Configuration(), control=Control(), alive=False)
    turn = Turn()
    with turn.taken():
        assert verify_worker(cast(Worker, worker), deep=False, repair=False).in_sync
        assert turn.progress() == {"running": True, "compared": "chunks", "done": 1, "of": 1}
    assert turn.progress() == {"running": False}


# --- the reader -----------------------------------------------------------------------------------


def test_reading_goes_on_where_the_server_dropped_the_cursor(mongo: Mongo) -> None:
    """Every document once, in `_id` order over all types, whatever becomes of the cursor."""
    ids: list[Any] = [*range(1_200), *(f"s{n:04}" for n in range(600))]
    mongo.db.notes.insert_many([{"_id": id_} for id_ in ids])
    reader = MongoReader(mongo.client, mongo.scope)
    found: list[Any] = []
    with mongo.failing(["getMore"], times=2, errorCode=43):
        for batch in reader.read("notes"):
            found += [document["_id"] for document in batch]
    assert found == ids


def test_documents_are_read_as_the_flow_sees_them(mongo: Mongo) -> None:
    """Excluded fields stay on the server; collections out of scope hold nothing."""
    mongo.db.notes.insert_one({"_id": 1, "text": "a", "big": {"x": 1, "y": 2}})
    mongo.db.other.insert_one({"_id": 1})
    scope = MongoScope(database=mongo.db.name, collections=("notes",), exclude_fields=("big.x",))
    reader = MongoReader(mongo.client, scope)
    expected = [[{"_id": 1, "text": "a", "big": {"y": 2}}]]
    assert reader.list_collections() == ["notes"]
    assert list(reader.read("notes")) == list(reader.find_many("notes", [1, 2])) == expected
    assert reader.find_existing("notes", [2, 1]) == [1]
    assert list(reader.find_many("other", [1])) == reader.find_existing("other", [1]) == []
