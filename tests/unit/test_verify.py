"""`verify` finds every kind of difference, repairs it with least work, raises no false alarm."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from connectors.store import Point
from flows.verify import NEVER, VerifyReport, verify
from models.ids import encode_id, entry_id, key_of
from models.points import OWN, entry_payload
from models.records import (
    UNREAD,
    Chunk,
    ChunkPoint,
    Entry,
    Failed,
    Failure,
    Floor,
    Key,
    Position,
    Timestamp,
    Version,
)
from syncline.errors import Stopped
from syncline.rules import MappingRule
from tests.pipeline import DIMENSION, Pipeline, gone, paragraphs, put

NOW = 1_000
LONG = key_of("notes", "long")
SHORT = key_of("notes", "short")
UNKNOWN = key_of("notes", "unknown")
OTHER = key_of("elsewhere", 1)
BURIED = key_of("notes", "buried")
BAD = Failure(step="map", reason="planted")


class Database:
    """A `DocumentReader` over dictionaries; `on_time` runs whenever the time is asked for."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, dict[str, Any]]] = {}
        self.seconds = NOW
        self.on_time: Callable[[], None] = lambda: None

    def put(self, collection: str, **document: Any) -> None:
        self.seconds += 1
        self.collections.setdefault(collection, {})[encode_id(document["_id"])] = document

    def delete(self, key: Key) -> None:
        self.seconds += 1
        del self.collections[key.collection][key.id]

    def cluster_time(self) -> Timestamp:
        self.on_time()
        return Timestamp(self.seconds, 1)

    def list_collections(self) -> list[str]:
        return sorted(self.collections)

    def estimate(self, collection: str) -> int:
        return len(self.collections[collection])

    def read(self, collection: str) -> Iterator[list[dict[str, Any]]]:
        documents = list(self.collections[collection].values())
        for start in range(0, len(documents), 3):
            yield documents[start : start + 3]

    def find_many(self, collection: str, ids: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
        documents = self.collections.get(collection, {})
        yield [documents[encode_id(id_)] for id_ in ids if encode_id(id_) in documents]

    def find_existing(self, collection: str, ids: Sequence[Any]) -> list[Any]:
        return [d["_id"] for batch in self.find_many(collection, ids) for d in batch]


class World:
    """A database and an index that is equal to it, until a test changes one of them."""

    def __init__(self) -> None:
        self.rules = {"notes": MappingRule()}
        self.pipeline = Pipeline(rules=self.rules)
        self.index = self.pipeline.index
        self.database = Database()
        headed = "# Keepers\n\n" + paragraphs(30)
        self.database.put("notes", _id="long", title="Log", text=headed, tag="a", n=3)
        self.database.put("notes", _id="short", text="A short note.", tag="b")
        self.database.put("notes", _id="empty", tag="c")
        self.database.put("notes", _id="bad", text=123)
        for number in range(5):
            self.database.put("more", _id=number, text=f"note {number}")
        self.sync()
        self.pipeline.run(put("buried", (NOW, 1), text="buried"), gone("buried", (NOW, 2)))

    def sync(self) -> None:
        """Apply what the database holds now, as the flow would."""
        at = (self.database.seconds, 1)
        for collection, documents in self.database.collections.items():
            changes = [
                put(d["_id"], at, collection, **{k: v for k, v in d.items() if k != "_id"})
                for d in documents.values()
            ]
            self.pipeline.run(*changes)
        self.acknowledge()

    def acknowledge(self) -> None:
        """Move the watermark to the database's time."""
        self.index.put_position(
            Position(
                scope="test",
                start=Version(NOW, 0),
                watermark=Timestamp(self.database.seconds, 1),
            )
        )

    def verify(self, **options: Any) -> VerifyReport:
        options = {"settle_seconds": 0, **options}
        if options.pop("repairing", False):
            options["repair"] = self.pipeline.applier.apply
        return verify(self.index, self.database, self.pipeline.steps, **options)

    def entry(self, key: Key = LONG) -> Entry:
        return self.index.entries([key])[key]

    def rewrite_entry(self, **changes: Any) -> None:
        entry = self.entry().model_copy(update=changes)
        self.index.store.set_payload([entry_id(LONG)], entry_payload(entry))

    def rewrite_raw(self, **fields: Any) -> None:
        """As damage does it: nothing that the entry says of itself fits any more."""
        self.index.store.set_payload([entry_id(LONG)], fields, at=(OWN,))

    def rewrite_chunk(self, **payload: Any) -> None:
        self.index.store.set_payload([self.entry().chunks[1]], payload)

    def rewrite_own(self, **changes: Any) -> None:
        chunk_id = self.entry().chunks[1]
        (stored,) = self.index.store.retrieve([chunk_id])
        self.index.store.set_payload([chunk_id], {OWN: {**stored.payload[OWN], **changes}})

    def plant_chunk(self, key: Key) -> None:
        self.index.put_chunks(
            [
                ChunkPoint(
                    id=entry_id(key_of("planted", key.id)),
                    key=key,
                    version=Version(NOW, 1),
                    hash="0" * 32,
                    chunk=Chunk(text="planted", input="planted"),
                    dense=np.eye(1, DIMENSION, dtype=np.float32)[0],
                    sparse=((1,), (1.0,)),
                    metadata={},
                )
            ]
        )

    def rewrite_vector(self, dense: Any) -> None:
        (stored,) = self.index.store.retrieve(self.entry().chunks[1:2])
        self.index.store.upsert([Point(stored.id, stored.payload, dense)])

    def plant_document(self, key: Key) -> None:
        self.plant_chunk(key)
        planted = (entry_id(key_of("planted", key.id)),)
        entry = Entry(key=key, version=Version(NOW, 1), state="indexed", chunks=planted)
        assert not self.index.commit([entry])

    def visible(self) -> Mapping[str, Any]:
        """What is live in the index, without versions and counts of attempts."""
        state = {}
        for id_, payload in self.pipeline.state().items():
            own = {k: v for k, v in payload[OWN].items() if k not in ("version", "failure")}
            if own["kind"] != "position" and own.get("state") != "deleted":
                state[id_] = {**payload, OWN: own}
        return state


@pytest.fixture
def world() -> World:
    return World()


def test_an_index_in_line_is_in_sync(world: World) -> None:
    """Nothing is found; a failed document, an empty one and a tombstone are no drift."""
    for deep in (False, True):
        report = world.verify(deep=deep, settle_seconds=60)
        assert report.in_sync
        assert report.found == {}
        assert report.examples == ()
        assert (report.documents, report.entries, report.failed) == (9, 9, 1)
        assert report.chunks == len(world.entry().chunks) + 1 + 5
        assert report.as_of == f"{world.database.seconds}.1"


Plant = Callable[[World], None]
SHALLOW: dict[str, tuple[Plant, str, int]] = {
    "entry deleted": (lambda w: w.index.delete([entry_id(LONG)]), "missing", 0),
    "entry a tombstone": (lambda w: w.rewrite_entry(state="deleted", chunks=()), "missing", 0),
    "chunk deleted": (lambda w: w.index.delete([w.entry().chunks[2]]), "missing_chunk", 1),
    "digest changed": (lambda w: w.rewrite_entry(digest="0" * 32), "stale", 0),
    "metadata digest changed": (lambda w: w.rewrite_entry(metadata_digest=""), "stale", 0),
    "title changed": (lambda w: w.rewrite_entry(title="Gol"), "stale", 0),
    "chunk planted": (lambda w: w.plant_chunk(LONG), "orphaned_chunk", 0),
    "chunk of nothing": (lambda w: w.plant_chunk(UNKNOWN), "orphaned_chunk", 0),
    "chunk of a tombstone": (lambda w: w.plant_chunk(BURIED), "orphaned_chunk", 0),
    "chunk of a failure": (lambda w: w.plant_chunk(key_of("notes", "bad")), "orphaned_chunk", 0),
    "document planted": (lambda w: w.plant_document(UNKNOWN), "orphaned_document", 0),
    "collection planted": (lambda w: w.plant_document(OTHER), "orphaned_document", 0),
    "metadata altered": (lambda w: w.rewrite_chunk(metadata={"tag": "a"}), "stale", 0),
    "identity altered": (lambda w: w.rewrite_own(document_id="short"), "stale", 0),
    "entry raw digest": (lambda w: w.rewrite_raw(digest="0" * 32), "stale", 0),
    "entry raw title": (lambda w: w.rewrite_raw(title="Gol"), "stale", 0),
    "entry failed": (lambda w: w.rewrite_entry(state="failed", failure=BAD), "stale", 0),
    "chunk unlisted": (lambda w: w.rewrite_raw(chunks=w.entry().chunks[1:]), "orphaned_chunk", 0),
    "chunk listed": (
        lambda w: w.rewrite_raw(chunks=(*w.entry().chunks, entry_id(UNKNOWN))),
        "missing_chunk",
        0,
    ),
}
LISTS = ("chunk unlisted", "chunk listed")
"""A deep comparison knows the list that the text gives, and sees this in another way too."""
DEEP: dict[str, tuple[Plant, str, int]] = {
    "text altered": (lambda w: w.rewrite_chunk(page_content="altered"), "stale", 0),
    "headings altered": (lambda w: w.rewrite_own(headings=["Other"]), "stale", 0),
    "hash altered": (lambda w: w.rewrite_own(hash="0" * 32), "stale", 0),
    "order altered": (lambda w: w.rewrite_entry(chunks=w.entry().chunks[::-1]), "stale", 0),
    "vector lost": (lambda w: w.rewrite_vector(None), "stale", 1),
    "vector null": (lambda w: w.rewrite_vector(np.zeros(DIMENSION, np.float32)), "stale", 1),
}


@pytest.mark.parametrize("case", [*SHALLOW, *DEEP])
def test_planted_corruption_is_found_and_repaired(world: World, case: str) -> None:
    """Each is told by its kind alone, found only as deep as it lies, and repaired with no
    embedding but of chunks that are lost."""
    plant, kind, embeddings = {**SHALLOW, **DEEP}[case]
    before, embedded = world.visible(), world.pipeline.telemetry.embedded_total
    plant(world)
    report = world.verify(deep=case in DEEP)
    assert not report.in_sync
    assert report.counts == report.found == {kind: 1}
    assert report.orphaned_chunks == (kind == "orphaned_chunk")
    assert [drift.kind for drift in report.examples] == [kind]
    assert report.repaired == 0
    assert world.verify().in_sync is (case in DEEP)
    repaired = world.verify(deep=True, repairing=True)
    assert repaired.in_sync
    also = {"stale": 1} if case in LISTS else {}
    assert (repaired.found, repaired.repaired) == ({kind: 1, **also}, 1)
    assert world.visible() == before
    assert world.pipeline.orphans() == 0
    assert world.pipeline.telemetry.embedded_total - embedded == embeddings
    assert world.verify(deep=True).found == {}


def test_changes_that_never_arrived(world: World) -> None:
    """A lost insert, edit and delete are missing, stale and orphaned; an edit embeds its chunk."""
    world.database.put("notes", _id="new", text="new")
    edited = "# Keepers\n\n" + paragraphs(30, p12="A zeppelin passed.")
    world.database.put("notes", _id="long", title="Log", text=edited, tag="a", n=3)
    world.database.delete(SHORT)
    embedded = world.pipeline.telemetry.embedded_total
    report = world.verify(repairing=True)
    assert report.found == {"missing": 1, "stale": 1, "orphaned_document": 1}
    assert report.in_sync
    assert report.repaired == 3
    assert 2 <= world.pipeline.telemetry.embedded_total - embedded <= 6
    assert world.verify(deep=True).found == {}
    assert world.entry(SHORT).state == "deleted"


def test_a_document_that_is_no_longer_included_is_orphaned(world: World) -> None:
    """The inclusion rule decides, not the document's existence."""
    world.rules["notes"] = MappingRule.model_validate({"include": {"tag": ["b", "c"]}})
    report = world.verify(repairing=True)
    # The document that fails has no tag either.
    assert report.found == {"orphaned_document": 2}
    assert report.in_sync
    assert world.entry().state == "deleted"
    assert world.pipeline.orphans() == 0


def test_failures_are_compared_as_failures(world: World) -> None:
    """A document that fails must be recorded so, and one that no longer fails must not."""
    world.database.put("notes", _id="short", text=124)
    world.database.put("notes", _id="bad", text="good now")
    report = world.verify(repairing=True)
    assert report.found == {"missing": 1, "stale": 1}
    assert report.in_sync
    assert report.failed == 1
    assert world.entry(SHORT).state == "failed"
    assert world.entry(SHORT).chunks
    assert world.entry(key_of("notes", "bad")).state == "indexed"


def test_what_cannot_be_repaired_remains(world: World) -> None:
    """The lost chunk of a failed document's last good version: its text is gone."""
    world.database.put("notes", _id="short", text=124)
    world.sync()
    world.index.delete(world.entry(SHORT).chunks)
    report = world.verify(repairing=True)
    assert report.found == report.counts == {"missing_chunk": 1}
    assert not report.in_sync
    assert report.repaired == 0


def test_an_entry_ahead_of_the_database_is_repaired(world: World) -> None:
    """It would turn every later change away: told as stale, and it takes the database's time."""
    ahead = Version(world.database.seconds + 100, 7, 3)
    world.rewrite_entry(version=ahead)
    assert world.verify().counts == {"stale": 1}
    embedded = world.pipeline.telemetry.embedded_total
    assert world.verify(repairing=True).in_sync
    assert world.entry().version == Version(world.database.seconds, 1)
    assert world.pipeline.telemetry.embedded_total == embedded
    world.database.put("notes", _id="long", title="Log", text="An edit that arrives.")
    world.sync()
    assert world.verify(deep=True).found == {}


def test_entries_below_a_floor_await_their_sweep(world: World) -> None:
    """Readers do not see them: no drift if their documents are gone, missing if they are not."""
    world.index.put_floor(Floor(collection="more", version=Version(NOW * 2, 0)))
    documents = world.database.collections.pop("more")
    assert world.verify().in_sync
    world.database.collections["more"] = documents
    assert world.verify().counts == {"missing": 5}


def test_many_are_counted_and_few_are_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every drift counts once, however often suspects are settled; 20 of a kind are shown."""
    monkeypatch.setattr("flows.verify.MAX_SUSPECTS", 10)
    monkeypatch.setattr("flows.verify.BATCH_POINTS", 7)
    for number in range(30):
        world.database.put("lost", _id=number, text="lost")
        world.plant_document(key_of("planted", number))
        world.plant_chunk(key_of("stray", f"s{number}"))
    report = world.verify()
    assert report.counts == {"missing": 30, "orphaned_document": 30, "orphaned_chunk": 30}
    assert len(report.examples) == 60


def test_a_stray_document_of_many_chunks_counts_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks come by id, in many batches, and each batch may be settled on its own."""
    world.index.delete([entry_id(LONG)])
    world.database.delete(LONG)
    monkeypatch.setattr("flows.verify.MAX_SUSPECTS", 1)
    monkeypatch.setattr("flows.verify.BATCH_POINTS", 2)
    assert world.verify().counts == {"orphaned_chunk": 1}


def test_a_damaged_store_is_told_by_its_counts(world: World) -> None:
    """A second entry of the same document is seen by no lookup."""
    (stored,) = world.index.store.retrieve([entry_id(SHORT)])
    world.index.store.upsert([Point(entry_id(UNKNOWN), stored.payload)])
    report = world.verify()
    assert report.counts == {"miscounted": 1}
    assert "index counts 10" in report.examples[0].detail


def test_a_message_that_could_not_be_read_is_no_drift(world: World) -> None:
    """It is counted and listed, no repair erases it, and it is forgotten only once in sync."""
    failure = Failure(step="decode", reason="not a message")
    key = Key(UNREAD, encode_id("topic-0 1:2:-1"))
    world.pipeline.applier.apply([Failed(key=key, version=Version(NOW, 3), failure=failure)])
    report = world.verify(deep=True, repairing=True)
    assert (report.in_sync, report.unread, report.failed, dict(report.found)) == (True, 1, 1, {})
    assert key in {entry.key for entry in world.index.failed(10)}
    world.database.delete(LONG)
    assert world.verify(forget=True).unread == 1
    assert world.verify(forget=True, repairing=True).unread == 0
    assert [entry.key for entry in world.index.failed(10)] == [key_of("notes", "bad")]


def test_it_stops_when_asked(world: World) -> None:
    """A stop is an error of its own, never a report of half the data."""
    with pytest.raises(Stopped):
        world.verify(stop=lambda seconds: True)


def test_a_stop_ends_the_wait_for_the_watermark(world: World) -> None:
    """While the index is behind, the stop itself is waited on: nothing sleeps beside it."""
    world.database.put("notes", _id="short", text="edited")
    with pytest.raises(Stopped):
        world.verify(settle_seconds=60, stop=lambda seconds: seconds > 0)


def test_it_tells_its_progress(world: World) -> None:
    """Each part is heard of, up to its total."""
    heard: dict[str, tuple[int, int]] = {}
    world.verify(progress=lambda done, total, what: heard.update({what: (done, total)}))
    chunks = world.index.counts().chunks
    assert heard == {"documents": (9, 9), "entries": (9, 9), "chunks": (chunks, chunks)}


# --- while things move ----------------------------------------------------------------------------


def test_a_write_that_is_still_on_its_way_is_no_drift(world: World) -> None:
    """A suspect is looked at again once the watermark has passed what was read."""
    world.database.put("notes", _id="short", text="edited")
    asked = []
    world.database.on_time = lambda: asked.append(1)

    def catch_up(seconds: float) -> bool:
        # The time is asked for at the start, and then to wait until the index has reached it.
        if len(asked) == 2:
            world.sync()
        return False

    report = world.verify(settle_seconds=60, stop=catch_up)
    assert (report.in_sync, report.found, report.unsettled) == (True, {}, 0)


def test_a_document_that_never_rests_is_unsettled(world: World) -> None:
    """The index follows, always one edit behind: no drift, and told."""
    asked = iter(range(10**6))

    def edit() -> None:
        world.sync()
        world.database.put("notes", _id="short", text=f"edit {next(asked)}")

    world.database.on_time = edit
    report = world.verify(settle_seconds=0.2)
    assert report.in_sync
    assert report.unsettled == 1


def test_an_index_that_does_not_follow_is_drift(world: World) -> None:
    """A document that is edited all the time, and never in the index."""
    asked = iter(range(10**6))
    world.database.on_time = lambda: world.database.put(
        "notes", _id="short", text=f"edit {next(asked)}"
    )
    report = world.verify(settle_seconds=0.2)
    assert report.counts == {"stale": 1}


def test_drift_in_an_idle_database_is_confirmed_at_once(world: World) -> None:
    """The watermark stands where the database does: there is nothing to wait for."""
    world.index.delete([entry_id(LONG)])
    assert world.verify(settle_seconds=60).counts == {"missing": 1}


def test_a_flow_that_stands_still_is_waited_for_once(world: World) -> None:
    """The bound is spent for the first suspects, not for those of every pass."""
    world.database.put("notes", _id="short", text="never applied")
    world.plant_document(UNKNOWN)
    world.plant_chunk(OTHER)
    slept: list[float] = []

    def sleep(seconds: float) -> bool:
        slept.append(seconds)
        return NEVER(seconds)

    report = world.verify(settle_seconds=0.5, stop=sleep)
    assert report.counts == {"stale": 1, "orphaned_document": 1, "orphaned_chunk": 1}
    # What was slept, however long the work beside it took.
    assert report.took_seconds >= 0.5
    assert sum(slept) < 0.9


def test_a_repair_gives_way_to_newer_changes(world: World) -> None:
    """The flow writes an edit while the repair is about to: the edit stays."""
    world.index.delete([entry_id(LONG)])
    newest = "# Keepers\n\nAll is new."

    def overtaken(items: Sequence[Any]) -> None:
        if world.database.collections["notes"][LONG.id]["text"] != newest:
            world.database.put("notes", _id="long", title="Log", text=newest)
            world.sync()
        world.pipeline.applier.apply(items)

    report = world.verify(repair=overtaken)
    assert report.in_sync
    assert report.repaired == 1
    assert world.verify(deep=True).found == {}
    assert len(world.entry().chunks) == 1


class Endless(Database):
    """So many documents, made as they are read; none is kept."""

    def __init__(self, documents: int) -> None:
        super().__init__()
        self.documents = documents

    def list_collections(self) -> list[str]:
        return ["many"]

    def estimate(self, collection: str) -> int:
        return self.documents

    def read(self, collection: str) -> Iterator[list[dict[str, Any]]]:
        for start in range(0, self.documents, 100):
            yield [{"_id": n, "text": f"note {n}"} for n in range(start, start + 100)]

    def find_many(self, collection: str, ids: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
        yield [{"_id": n, "text": f"note {n}"} for n in ids]


def test_memory_does_not_grow_with_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the documents, all of them missing, need no more memory."""
    monkeypatch.setattr("flows.verify.MAX_SUSPECTS", 200)
    pipeline, peaks = Pipeline(), []
    for documents in (500, 500, 2_000):  # the first fills what is made once and kept
        gc.collect()  # empties free lists: what a run takes from them is not traced
        tracemalloc.start()
        report = verify(pipeline.index, Endless(documents), pipeline.steps, settle_seconds=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.counts == {"missing": documents}
    assert peaks[2] < 1.1 * peaks[1], peaks
