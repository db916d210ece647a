"""How far an index is said to be, fed directly or from a topic."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.store import Stored
from models.records import Advance, Mark, Position, Share, Timestamp, Version

POSITION = Position(scope="s", start=Version(5, 0), token="t", watermark=Timestamp(7, 1))


@pytest.fixture
def index() -> Index:
    store = MemoryStore()
    store.create(4)
    return Index(store)


def put(index: Index, share: Share, generation: int, watermark: Timestamp | None) -> list[int]:
    """A mark with nothing missing before it."""
    beat = watermark.seconds * 100 + watermark.increment if watermark else 0
    mark = Mark(**share._asdict(), generation=generation, beat=beat, watermark=watermark)
    return index.put_marks([Advance(mark, begins=True)])


def test_fed_directly_the_watermark_is_the_positions(index: Index) -> None:
    """Unset before the first position, and while it has none."""
    assert index.watermark() is None
    index.put_position(POSITION.model_copy(update={"watermark": None}))
    assert index.watermark() is None
    index.put_position(POSITION)
    assert index.watermark() == Timestamp(7, 1)
    assert index.marks() == {}


def test_fed_from_a_topic_it_is_the_least_of_all_partitions(index: Index) -> None:
    """And unset while one partition has no mark, or a snapshot running."""
    index.feed_from_topic(3)
    put(index, Share(0, 3), 1, Timestamp(9, 1))
    put(index, Share(2, 3), 1, Timestamp(8, 2))
    assert index.watermark() is None
    put(index, Share(1, 3), 1, None)
    assert index.watermark() is None
    put(index, Share(1, 3), 1, Timestamp(8, 10))
    assert index.watermark() == Timestamp(8, 2)
    (kept, told) = index.marks()[1], Timestamp(8, 10)
    assert kept == Mark(partition=1, of=3, generation=1, beat=810, watermark=told)


def test_a_mark_is_never_taken_back(index: Index) -> None:
    """A flow that lags or has stalled changes nothing; a newer snapshot does."""
    index.feed_from_topic(1)
    put(index, Share(0, 1), 2, Timestamp(9, 1))
    put(index, Share(0, 1), 2, Timestamp(8, 9))
    put(index, Share(0, 1), 2, None)
    put(index, Share(0, 1), 1, Timestamp(99, 0))
    assert index.watermark() == Timestamp(9, 1)
    put(index, Share(0, 1), 3, None)
    assert index.watermark() is None


def test_no_mark_is_put_across_a_gap(index: Index) -> None:
    """Not without one before it, nor on one of another generation or that ends too soon."""

    def follow(generation: int, after: int, beat: int) -> list[int]:
        watermark = Timestamp(beat, 0)
        mark = Mark(partition=0, of=1, generation=generation, beat=beat, watermark=watermark)
        return index.put_marks([Advance(mark, after)])

    index.feed_from_topic(1)
    assert follow(1, 0, 5) == [0]
    assert index.marks() == {}
    assert put(index, Share(0, 1), 1, None) == []
    assert follow(2, 0, 1) == [0]
    assert follow(1, 4, 5) == [0]
    assert follow(1, 0, 5) == follow(1, 4, 6) == []
    assert follow(1, 7, 8) == [0]
    assert index.watermark() == Timestamp(6, 0)
    assert follow(1, 3, 4) == [], "it stands further already"
    assert index.watermark() == Timestamp(6, 0)


def test_another_number_of_partitions_begins_anew(index: Index) -> None:
    """Marks of the old number count for nothing, on the same store and seen by another reader."""
    reader = Index(index.store)
    index.feed_from_topic(2)
    for partition in range(2):
        put(index, Share(partition, 2), 1, Timestamp(9, 1))
    assert reader.watermark() == Timestamp(9, 1)
    index.feed_from_topic(1)
    assert reader.watermark() is None
    put(index, Share(0, 1), 1, Timestamp(3, 0))
    assert reader.watermark() == Timestamp(3, 0)
    index.feed_from_topic(2)
    assert reader.marks() == {}


def test_each_flow_may_say_what_feeds_the_index(index: Index) -> None:
    """The marks of the others stay when one more replica comes."""
    index.feed_from_topic(1)
    put(index, Share(0, 1), 1, Timestamp(9, 1))
    Index(index.store).feed_from_topic(1)
    assert index.watermark() == Timestamp(9, 1)


def test_a_position_does_not_survive_a_topic(index: Index) -> None:
    """Turned from one to the other and back, the direct flow takes a new snapshot."""
    index.put_position(POSITION)
    index.feed_directly()
    assert index.position() == POSITION
    index.feed_from_topic(1)
    assert (index.position(), index.watermark()) == (None, None)
    put(index, Share(0, 1), 1, Timestamp(9, 1))
    index.put_position(POSITION)  # of a direct flow that has not ended yet
    assert (index.position(), index.watermark()) == (None, Timestamp(9, 1))
    index.feed_directly()
    assert (index.position(), index.watermark(), index.marks()) == (None, None, {})


def test_a_search_reads_the_watermark_in_one_call(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the number of partitions is known."""
    index.feed_from_topic(4)
    for partition in range(4):
        put(index, Share(partition, 4), 1, Timestamp(9, partition))
    index.watermark()
    calls: list[object] = []
    retrieve = index.store.retrieve

    def counted(ids: Sequence[str]) -> list[Stored]:
        calls.append(ids)
        return retrieve(ids)

    monkeypatch.setattr(index.store, "retrieve", counted)
    assert index.watermark() == Timestamp(9, 0)
    assert len(calls) == 1
