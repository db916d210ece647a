"""Sweeping by shares: each flow its own documents, floors only when all are done."""

from __future__ import annotations

from functools import partial

import pytest

from models.ids import key_of, partition_of
from models.points import of_kind
from models.records import Floor, Share, Timestamp, Version
from tests.pipeline import Pipeline, gone, put

OF = 3
DROP = Floor(collection="notes", version=Version(6, 0))


@pytest.fixture
def pipeline() -> Pipeline:
    made = Pipeline()
    made.run(*[put(n, (5, n), text=f"note {n}") for n in range(30)])
    return made


def sweep(pipeline: Pipeline, partition: int, seconds: int, of: int = OF) -> int:
    share = Share(partition, of)
    return pipeline.index.sweep(
        Timestamp(seconds, 0), share=share, keep_seconds=100, more=lambda: True
    )


def left(pipeline: Pipeline) -> set[int]:
    keys = [key_of("notes", n) for n in range(30)]
    return {n for n, key in enumerate(keys) if key in pipeline.index.entries(keys)}


def floors(pipeline: Pipeline) -> int:
    return pipeline.store.count(of_kind("floor"))


def test_a_share_is_swept_alone(pipeline: Pipeline) -> None:
    """Of a dropped collection only the documents of the share go, with their chunks."""
    pipeline.run(DROP)
    mine = {n for n in range(30) if partition_of(key_of("notes", n), OF) == 1}
    assert sweep(pipeline, 1, 7) == len(mine) > 0
    assert left(pipeline) == {*range(30)} - mine
    assert pipeline.index.counts().chunks == 30 - len(mine)
    assert sweep(pipeline, 1, 7) == 0


def test_tombstones_expire_by_shares(pipeline: Pipeline) -> None:
    """Each flow's own watermark decides over its own documents."""
    pipeline.run(*[gone(n, (6, n)) for n in range(30)])
    swept = sweep(pipeline, 0, 107)
    assert 0 < swept < 30
    assert pipeline.index.counts().deleted == 30 - swept
    assert swept + sweep(pipeline, 1, 107) + sweep(pipeline, 2, 107) == 30


def test_a_floor_goes_when_it_is_old_and_all_are_done(pipeline: Pipeline) -> None:
    """Until then it hides what lies below it, and guards against what comes late."""
    pipeline.run(DROP)
    for partition in range(OF):
        sweep(pipeline, partition, 7)
    sweep(pipeline, 0, 107)
    sweep(pipeline, 1, 107)
    assert floors(pipeline) == 1
    sweep(pipeline, 2, 107)
    assert floors(pipeline) == 0


def test_what_is_read_again_from_before_a_floor_goes_again(pipeline: Pipeline) -> None:
    """All of a topic is delivered again, long after its drop was swept: nothing comes back."""
    pipeline.run(DROP)
    for seconds in (7, 107):
        sweep(pipeline, 0, seconds, of=1)
    assert floors(pipeline) == 0
    pipeline.run(*[put(n, (5, n), text=f"note {n}") for n in range(30)], DROP)
    sweep(pipeline, 0, 107, of=1)
    assert (left(pipeline), floors(pipeline)) == (set(), 0)


def test_what_a_stalled_writer_left_below_a_floor_goes_with_it(pipeline: Pipeline) -> None:
    """Swept once before, the share is swept again before the floor is removed."""
    pipeline.run(DROP)
    sweep(pipeline, 0, 7, of=1)
    late = Pipeline()
    late.run(put(1, (5, 1), text="note 1"))
    pipeline.store.upsert(
        [
            p
            for p in late.store._points.values()  # type: ignore[attr-defined]
            if p.payload["syncline"]["kind"] in ("entry", "chunk")
        ]
    )
    sweep(pipeline, 0, 8, of=1)
    assert left(pipeline) == {1}
    sweep(pipeline, 0, 107, of=1)
    assert (left(pipeline), floors(pipeline)) == (set(), 0)


def test_a_raised_floor_is_swept_again(pipeline: Pipeline) -> None:
    """A second drop is not taken for the first."""
    pipeline.run(DROP)
    sweep(pipeline, 0, 7, of=1)
    pipeline.run(put(1, (7, 1), text="again"), DROP.model_copy(update={"version": Version(8, 0)}))
    assert sweep(pipeline, 0, 9, of=1) == 1


def test_a_sweep_cut_short_goes_on_where_it_was(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page a call reaches every document, also past those of other shares."""
    monkeypatch.setattr("connectors.sweeping.PAGE", 4)
    pipeline.run(DROP)
    mine = {n for n in range(30) if partition_of(key_of("notes", n), OF) == 2}
    removed = 0
    for _ in range(10):
        more = partial(next, iter((True, True)), False)
        share = Share(2, OF)
        removed += pipeline.index.sweep(Timestamp(7, 0), share=share, keep_seconds=100, more=more)
    assert removed == len(mine)
    assert left(pipeline) == {*range(30)} - mine


def test_chunks_that_no_entry_led_to_go_with_their_collection(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer died before its entry, and the collection was dropped: its chunks are swept too,
    and those that were written after the drop stay."""

    def die(*_: object, **__: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as broken:
        broken.setattr(pipeline.index, "commit", die)
        with pytest.raises(ConnectionResetError):
            pipeline.run(put("late", (5, 99), text="orphaned walrus"))
    assert pipeline.orphans() == 1
    pipeline.run(DROP)
    pipeline.run(put("late", (5, 99), text="orphaned walrus"))
    pipeline.run(put("new", (7, 0), text="alive"))
    for partition in range(OF):
        sweep(pipeline, partition, 8)
    assert pipeline.orphans() == 0
    assert pipeline.index.counts().chunks == 1
