"""What one batch does to the index, over the in-memory store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from flows.isolated import DEFECT_DOCUMENTS
from flows.sync import contained
from models.embedders import Unembeddable
from models.ids import entry_id, key_of
from models.records import ALL_COLLECTIONS, Floor, Position, Timestamp, Version
from syncline.control import Control
from syncline.errors import Misconfigured, Rejected, Stopped, Unavailable
from syncline.retry import keep_trying
from syncline.rules import MappingRule
from tests.pipeline import Pipeline, gone, paragraphs, put


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


def entry(pipeline: Pipeline, doc_id: object, collection: str = "notes") -> Any:
    return pipeline.index.entries([key_of(collection, doc_id)]).get(key_of(collection, doc_id))


def texts(pipeline: Pipeline, doc_id: object) -> list[str]:
    ids = entry(pipeline, doc_id).chunks
    chunks = pipeline.index.chunks(ids)
    return [chunks[i].text for i in ids]


def test_a_document_becomes_chunks_that_its_entry_lists(pipeline: Pipeline) -> None:
    """An insert is an entry and its chunks, in order."""
    pipeline.run(put(1, (5, 1), title="Log", text=paragraphs(30)))
    assert entry(pipeline, 1).state == "indexed"
    assert "\n\n".join(texts(pipeline, 1)) == paragraphs(30)
    assert pipeline.index.counts().chunks == len(entry(pipeline, 1).chunks) > 5


def test_an_edit_embeds_only_what_changed(pipeline: Pipeline) -> None:
    """One changed paragraph of a long document embeds at most a few chunks."""
    whole = pipeline.run(put(1, (5, 1), text=paragraphs(200)))
    edited = pipeline.run(put(1, (5, 2), text=paragraphs(200, p77="A zeppelin passed.")))
    assert whole > 40 and 1 <= edited <= 5
    assert "\n\n".join(texts(pipeline, 1)) == paragraphs(200, p77="A zeppelin passed.")
    assert pipeline.index.counts().chunks == len(entry(pipeline, 1).chunks)


def test_a_metadata_edit_embeds_nothing(pipeline: Pipeline) -> None:
    """A changed tag reaches every chunk without the model."""
    pipeline.run(put(1, (5, 1), text=paragraphs(30), tag="old"))
    assert pipeline.run(put(1, (5, 2), text=paragraphs(30), tag="new")) == 0
    stored = pipeline.index.chunks(entry(pipeline, 1).chunks)
    assert {chunk.metadata["tag"] for chunk in stored.values()} == {"new"}


def test_reading_everything_again_embeds_nothing(pipeline: Pipeline) -> None:
    """The same documents at a later version cost no embedding and lift their entries."""
    pipeline.run(*[put(n, (5, n), text=f"note {n}") for n in range(20)])
    assert pipeline.run(*[put(n, (9, 0), text=f"note {n}") for n in range(20)]) == 0
    assert pipeline.telemetry.skipped_total == 20
    assert {entry(pipeline, n).version for n in range(20)} == {Version(9, 0)}


def test_an_older_version_changes_nothing(pipeline: Pipeline) -> None:
    """A late, older event neither regresses nor resurrects a document."""
    pipeline.run(put(1, (5, 2), text="new"), put(2, (5, 2), text="two"))
    pipeline.run(gone(2, (5, 3)))
    pipeline.run(put(1, (5, 1), text="old"), put(2, (5, 2), text="two"))
    assert texts(pipeline, 1) == ["new"]
    assert entry(pipeline, 2).state == "deleted"


def test_within_a_batch_the_last_change_of_a_document_counts(pipeline: Pipeline) -> None:
    """Ten edits in one batch embed the last text alone."""
    embedded = pipeline.run(*[put(1, (5, n), text=f"draft {n}") for n in range(10)])
    assert embedded == 1 and texts(pipeline, 1) == ["draft 9"]


def test_emptying_a_document_empties_it_in_the_index(pipeline: Pipeline) -> None:
    """A document without text is indexed with no chunks; it is no failure."""
    pipeline.run(put(1, (5, 1), text=paragraphs(30)))
    pipeline.run(put(1, (5, 2), text=""))
    assert entry(pipeline, 1).state == "indexed"
    assert entry(pipeline, 1).chunks == () and pipeline.index.counts().chunks == 0


def test_a_failed_document_keeps_its_last_good_version(pipeline: Pipeline) -> None:
    """A wrong type is recorded with step and reason; a later good version clears it."""
    pipeline.run(put(1, (5, 1), text="good"))
    pipeline.run(put(1, (5, 2), text=123), put(2, (5, 3), text="other"))
    pipeline.run(put(1, (5, 4), text=124))
    failed = entry(pipeline, 1)
    assert failed.state == "failed" and failed.failure.step == "map"
    assert failed.failure.attempts == 2 and "124" in failed.failure.reason
    assert texts(pipeline, 1) == ["good"] and texts(pipeline, 2) == ["other"]
    assert pipeline.run(put(1, (5, 5), text="good")) == 0
    assert entry(pipeline, 1).state == "indexed" and entry(pipeline, 1).failure is None


def test_a_delete_clears_a_failure(pipeline: Pipeline) -> None:
    """A failed document that is deleted is no longer listed."""
    pipeline.run(put(1, (5, 1), text=123))
    assert [e.key for e in pipeline.index.failed(10)] == [key_of("notes", 1)]
    pipeline.run(gone(1, (5, 2)))
    assert pipeline.index.failed(10) == []


def test_a_document_that_stops_matching_leaves_the_index() -> None:
    """The inclusion filter turns an edit into a removal, and back."""
    rule = MappingRule.model_validate({"include": {"status": "public"}})
    pipeline = Pipeline(rules={"notes": rule})
    pipeline.run(put(1, (5, 1), text="hello", status="public"))
    pipeline.run(put(1, (5, 2), text="hello", status="draft"))
    assert entry(pipeline, 1).state == "deleted" and pipeline.index.counts().chunks == 0
    pipeline.run(put(1, (5, 3), text="hello", status="public"))
    assert texts(pipeline, 1) == ["hello"]


def test_a_snapshot_leaves_no_tombstones_of_what_was_never_in(pipeline: Pipeline) -> None:
    """Excluded documents that a snapshot reads cost nothing: its floor guards them."""
    rule = MappingRule.model_validate({"include": {"status": "public"}})
    pipeline = Pipeline(rules={"notes": rule})
    pipeline.run(Floor(collection=ALL_COLLECTIONS, version=Version(5, 1)))
    pipeline.run(put(1, (5, 1), text="hello", status="draft"))
    assert entry(pipeline, 1) is None
    pipeline.run(put(1, (4, 9), text="hello", status="public"))
    assert entry(pipeline, 1) is None


def test_a_version_that_comes_again_with_another_text_leaves_nothing_behind(
    pipeline: Pipeline,
) -> None:
    """A page of a snapshot that was read twice: what the first reading stored goes."""
    pipeline.run(put(1, (5, 1), text=paragraphs(30)))
    pipeline.run(put(1, (5, 1), text=paragraphs(12)))
    assert "\n\n".join(texts(pipeline, 1)) == paragraphs(12)
    assert pipeline.index.counts().chunks == len(entry(pipeline, 1).chunks)


def test_a_document_that_the_model_refuses_leaves_nothing_behind(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that were stored before the model refused one go with the failure."""
    embed = pipeline.embedder.embed_batches

    def refuse_last(texts: Sequence[str]) -> Iterator[Any]:
        yield from embed(texts[:-1])
        raise Unembeddable([len(texts) - 1], "too long")

    monkeypatch.setattr(pipeline.embedder, "embed_batches", refuse_last)
    pipeline.run(put(1, (5, 1), text=paragraphs(30)))
    assert entry(pipeline, 1).failure.step == "embed"
    assert pipeline.orphans() == 0


def refuse(pipeline: Pipeline, patch: pytest.MonkeyPatch, word: str, error: Exception) -> None:
    """From now on a text with `word` in it breaks the embedder."""
    embed = pipeline.embedder.embed_batches

    def broken(texts: Sequence[str]) -> Iterator[Any]:
        if any(word in text for text in texts):
            raise error
        yield from embed(texts)

    patch.setattr(pipeline.embedder, "embed_batches", broken)


@pytest.mark.parametrize("error", [KeyError("tone"), Rejected("store", "is not JSON")], ids=str)
def test_a_document_that_cannot_be_applied_fails_alone(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Also by an error that nobody has thought of: it is recorded, its last good version stays,
    the rest of its batch is indexed, and the flow goes on."""
    pipeline.run(put(3, (5, 1), text="calm"))
    refuse(pipeline, monkeypatch, "poison", error)
    documents = [put(n, (6, n), text="poison" if n == 3 else f"note {n}") for n in range(6)]
    with capture_logs():  # to print a traceback takes seconds
        contained(pipeline.applier.apply, pipeline.control)(pipeline.items(documents))
    assert pipeline.control.error is None
    assert [entry(pipeline, n).state for n in (0, 3, 5)] == ["indexed", "failed", "indexed"]
    assert entry(pipeline, 3).failure.step == getattr(error, "step", "apply")
    assert texts(pipeline, 3) == ["calm"] and pipeline.orphans() == 0
    pipeline.run(put(3, (7, 1), text="well"))
    assert texts(pipeline, 3) == ["well"]


@pytest.mark.parametrize("batch", [1, 20])
def test_an_error_of_every_document_is_no_documents_error(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A defect of ours ends the flow, whether documents come together or one by one."""
    refuse(pipeline, monkeypatch, "", KeyError("tone"))
    run = contained(pipeline.applier.apply, pipeline.control)
    for n in range(0, 20, batch):
        with capture_logs():
            run(pipeline.items([put(k, (5, k), text=f"note {k}") for k in range(n, n + batch)]))
    assert isinstance(pipeline.control.error, KeyError)
    assert pipeline.index.counts().failed < DEFECT_DOCUMENTS


def test_two_documents_may_share_a_paragraph(pipeline: Pipeline) -> None:
    """The same text in two documents is two points, embedded once, removed one by one."""
    pipeline.run(put(1, (5, 1), text="shared"))
    assert pipeline.run(put(2, (5, 2), text="shared")) == 0
    pipeline.run(gone(1, (5, 3)))
    assert texts(pipeline, 2) == ["shared"]


def test_a_floor_is_a_barrier_within_a_batch(pipeline: Pipeline) -> None:
    """What lies before a drop in a batch is gone after it, what comes after it stays."""
    pipeline.run(
        put(1, (5, 1), text="before"),
        Floor(collection="notes", version=Version(5, 2)),
        put(2, (5, 3), text="after"),
    )
    pipeline.index.sweep(Timestamp(6, 0), keep_seconds=100, more=lambda: True)
    assert entry(pipeline, 1) is None and texts(pipeline, 2) == ["after"]
    pipeline.run(put(1, (5, 1), text="before"))
    assert entry(pipeline, 1) is None
    assert pipeline.index.counts().chunks == 1


def test_a_sweep_waits_for_the_watermark(pipeline: Pipeline) -> None:
    """Nothing below a floor is removed before the watermark passes it."""
    pipeline.run(put(1, (5, 1), text="old"), Floor(collection="*", version=Version(7, 0)))
    assert pipeline.index.sweep(Timestamp(6, 9), keep_seconds=100, more=lambda: True) == 0
    assert pipeline.index.sweep(Timestamp(7, 0), keep_seconds=100, more=lambda: True) == 1
    assert pipeline.index.counts() == (0, 0, 0, 0)


def test_tombstones_expire_by_the_watermark(pipeline: Pipeline) -> None:
    """A delete is remembered for `keep_seconds` of cluster time, not of the clock."""
    pipeline.run(put(1, (5, 1), text="x"), gone(1, (5, 2)))
    pipeline.index.sweep(Timestamp(14, 0), keep_seconds=10, more=lambda: True)
    assert pipeline.index.counts().deleted == 1
    pipeline.index.sweep(Timestamp(16, 0), keep_seconds=10, more=lambda: True)
    assert pipeline.index.counts().deleted == 0


def test_renamed_documents_are_not_computed_again(pipeline: Pipeline) -> None:
    """The same texts under another collection's name copy their vectors."""
    pipeline.run(*[put(n, (5, n), text=f"note {n}") for n in range(10)])
    renamed = [put(n, (6, 1), "moved", text=f"note {n}") for n in range(10)]
    assert pipeline.run(Floor(collection="notes", version=Version(6, 1)), *renamed) == 0
    assert entry(pipeline, 3, "moved").state == "indexed"


def test_a_twin_that_was_overtaken_does_no_harm(pipeline: Pipeline) -> None:
    """Between plan and write another writer commits a newer version: the newer one stays."""
    twin = Pipeline(pipeline.store)
    pipeline.run(put(1, (5, 1), text="first"))

    def overtake(operation: str) -> None:
        if operation == "upsert_conditionally":
            pipeline.store.before_write = None  # type: ignore[attr-defined]
            twin.run(put(1, (5, 9), text="newest"))

    pipeline.store.before_write = overtake  # type: ignore[attr-defined]
    pipeline.run(put(1, (5, 2), text="second"))
    assert texts(pipeline, 1) == ["newest"] and entry(pipeline, 1).version == Version(5, 9)


def test_a_stop_in_the_middle_keeps_what_was_embedded(pipeline: Pipeline) -> None:
    """A long document is given up between two slices, and the restart embeds only the rest."""
    long = put(1, (5, 1), text=paragraphs(800))
    pipeline.control.request_stop()
    with pytest.raises(Stopped):
        pipeline.run(long)
    first = pipeline.telemetry.embedded_total
    again = Pipeline(pipeline.store)
    second = again.run(long)
    assert entry(again, 1).state == "indexed"
    assert first > 0 and first + second == len(entry(again, 1).chunks)


def test_the_index_going_away_is_waited_for(pipeline: Pipeline) -> None:
    """Refused calls are repeated until they succeed, and the waiting is visible."""
    pipeline.store.refuse(3)  # type: ignore[attr-defined]
    waiting: list[str] = []

    class Watched(Control):
        def unavailable(self, service: str, reason: str) -> bool:
            waiting.append(service)
            return super().unavailable(service, reason)

    keep_trying(lambda: pipeline.index.entries([key_of("notes", 1)]), control := Watched())
    assert len(waiting) == 3 and not control.waiting

    pipeline.store.refuse(2)  # type: ignore[attr-defined]
    pipeline.run(put(1, (5, 1), text="hello"))
    assert texts(pipeline, 1) == ["hello"]


def test_a_failed_document_does_not_bring_back_what_was_dropped(pipeline: Pipeline) -> None:
    """Re-inserted in a form that fails after a drop, a document has no old chunks."""
    pipeline.run(put(1, (5, 1), text="dropped"))
    pipeline.run(Floor(collection="notes", version=Version(6, 1)))
    pipeline.run(put(1, (7, 1), text=5))
    assert entry(pipeline, 1).state == "failed"
    assert entry(pipeline, 1).chunks == ()
    assert pipeline.index.counts().chunks == 0


def test_a_metadata_edit_cut_short_and_taken_back_is_noticed(pipeline: Pipeline) -> None:
    """Killed after the payload, before the entry; then the old value comes again: it is written."""
    pipeline.run(put(1, (5, 1), text="hello", tag="a"))

    def crash(operation: str) -> None:
        if operation == "upsert_conditionally" and tags(pipeline) == {"b"}:
            raise KeyboardInterrupt

    pipeline.store.before_write = crash  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(put(1, (5, 2), text="hello", tag="b"))
    pipeline.store.before_write = None  # type: ignore[attr-defined]
    restarted = Pipeline(pipeline.store)
    assert restarted.run(put(1, (5, 3), text="hello", tag="a")) == 0
    assert tags(restarted) == {"a"}


def tags(pipeline: Pipeline) -> set[str]:
    stored = pipeline.index.chunks(entry(pipeline, 1).chunks)
    return {chunk.metadata["tag"] for chunk in stored.values()}


def test_a_sweep_cut_short_leaves_no_entry_without_its_chunks(pipeline: Pipeline) -> None:
    """Killed between its two deletes, a sweep leaves orphans, and the document can come again."""
    pipeline.run(put(1, (5, 1), text="hello"), Floor(collection="*", version=Version(6, 0)))
    deletes = iter(range(1))

    def crash(operation: str) -> None:
        if operation == "delete_where" and next(deletes, None) is None:
            raise KeyboardInterrupt

    pipeline.store.before_write = crash  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        pipeline.index.sweep(Timestamp(7, 0), keep_seconds=100, more=lambda: True)
    pipeline.store.before_write = None  # type: ignore[attr-defined]
    assert entry(pipeline, 1) is None
    restarted = Pipeline(pipeline.store)
    restarted.run(put(1, (8, 0), text="hello"))
    assert texts(restarted, 1) == ["hello"]


def test_a_snapshot_that_was_never_acknowledged_voids_the_position(pipeline: Pipeline) -> None:
    """Going on below a newer floor would drop what comes as too old: a new snapshot is needed."""
    position = Position(scope="s", start=Version(5, 0), token="t")
    pipeline.run(Floor(collection="*", version=Version(5, 0)))
    pipeline.index.put_position(position)
    assert pipeline.index.resumable_position() == position
    pipeline.run(Floor(collection="*", version=Version(9, 0)))
    resumed = pipeline.index.resumable_position()
    assert resumed is not None
    assert resumed.scope != "s"


def test_odd_field_names_and_broken_encodings_stop_nothing(pipeline: Pipeline) -> None:
    """A name that cannot be indexed is stored; a string that cannot be stored is a failure."""
    odd: dict[str, Any] = {'a"b': 1, "back\\slash": 2}
    unstorable: dict[str, Any] = {"\udcff": 1}
    pipeline.run(
        put(1, (5, 1), text="odd", **odd),
        put(2, (5, 2), text="broken", note="\udcff"),
        put(3, (5, 3), text="broken", **unstorable),
        put("\udcff", (5, 4), text="id"),
        put(4, (5, 5), text="fine"),
    )
    assert texts(pipeline, 1) == ["odd"] and texts(pipeline, 4) == ["fine"]
    assert entry(pipeline, 2).failure.step == "map" and entry(pipeline, 3).state == "failed"
    assert texts(pipeline, "\udcff") == ["id"]


def test_a_wait_is_over_also_when_it_ends_in_an_error() -> None:
    """A service that answered with a final error is no longer waited for."""
    control = Control()
    answers = iter([Unavailable("mongo", "away"), Misconfigured("wrong", "mend it")])

    def call() -> None:
        raise next(answers)

    with pytest.raises(Misconfigured):
        keep_trying(call, control)
    assert not control.waiting


def test_a_damaged_entry_takes_the_next_change() -> None:
    """An entry whose etag does not fit it refuses every guarded write: it is sealed anew."""
    pipeline = Pipeline()
    pipeline.run(put("a", (1, 1), text="one"))
    damage = {"title": "damaged"}
    pipeline.index.store.set_payload([entry_id(key_of("notes", "a"))], damage, at=("syncline",))
    pipeline.run(put("a", (2, 1), text="two"))
    entry = pipeline.index.entries([key_of("notes", "a")])[key_of("notes", "a")]
    assert (entry.version, entry.title) == (Version(2, 1), "")
