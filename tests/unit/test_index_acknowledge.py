"""What the index flow does with places that are written: marks, flush, broker, sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import pulsar
import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.pulsar_consumers import PulsarConsumers
from connectors.pulsar_source import Place
from flows import acknowledge
from flows.index import AcknowledgePlaces
from models.ids import key_of, partition_of
from models.records import Advance, Floor, Mark, Share, Timestamp, Version
from syncline.control import Control
from tests.pipeline import Pipeline, put

PARTITIONS = 2


class Broker:
    """Notes what is acknowledged, in the place of the consumers."""

    def __init__(self, story: list[str]) -> None:
        self.topics = ("t-0", "t-1")
        self._story = story

    def acknowledge(self, places: Mapping[int, pulsar.MessageId]) -> None:
        self._story += [f"acknowledge {k}:{id_.entry_id()}" for k, id_ in places.items()]


class Written:
    """An index with everything that is done to it noted in `story`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.story: list[str] = []
        self.pipeline = Pipeline()
        self.index: Index = self.pipeline.index
        self.index.feed_from_topic(PARTITIONS)
        self.control = Control()
        store = cast(MemoryStore, self.pipeline.store)
        monkeypatch.setattr(store, "flush", lambda: self.story.append("flush"))
        self._acknowledge = AcknowledgePlaces(
            self.index,
            cast(PulsarConsumers, Broker(self.story)),
            self.control,
            tombstone_seconds=10,
        )

    def acknowledge(self, places: Mapping[int, At]) -> bool:
        return self._acknowledge({k: place.of(k) for k, place in places.items()})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


class At(NamedTuple):
    """A place, in whichever partition; with a watermark, nothing is missing before it."""

    entry: int
    watermark: int | None = None
    begins: bool = True
    generation: int = 1

    def of(self, partition: int) -> Place:
        advance = None
        if self.watermark is not None:
            reached = Timestamp(self.watermark, 1)
            mark = Mark(
                partition=partition,
                of=PARTITIONS,
                generation=self.generation,
                beat=self.watermark,
                watermark=reached,
            )
            advance = Advance(mark, 0 if self.begins else self.watermark - 1, begins=self.begins)
        return Place(pulsar.MessageId(-1, 0, self.entry, -1), advance)


at = At


def test_the_broker_is_told_after_a_flush(written: Written) -> None:
    """What is acknowledged survives even a power cut."""
    assert not written.acknowledge({0: at(5), 1: at(6)})
    assert written.story == ["flush", "acknowledge 0:5", "acknowledge 1:6"]


def test_between_flushes_only_the_watermark_moves(written: Written) -> None:
    """Readers see a new watermark at once; the broker is told with the next flush."""
    written.acknowledge({0: at(1, 5), 1: at(1, 5)})
    assert written.acknowledge({0: at(2, 6), 1: at(2, 7)}), "wants to be called again"
    assert written.index.watermark() == Timestamp(6, 1)
    assert written.story == ["flush", "acknowledge 0:1", "acknowledge 1:1"]
    written.control.request_stop()
    written.acknowledge({0: at(2, 6), 1: at(2, 7)})
    assert written.story[3:] == ["flush", "acknowledge 0:2", "acknowledge 1:2"]


def test_only_partitions_that_moved_are_acknowledged(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle partition is not acknowledged again."""
    monkeypatch.setattr(acknowledge, "FLUSH_SECONDS", 0)
    written.acknowledge({0: at(1), 1: at(1)})
    written.acknowledge({0: at(1), 1: at(2)})
    assert written.story[3:] == ["flush", "acknowledge 1:2"]


def test_the_watermark_is_the_least_of_all(written: Written) -> None:
    """Until every partition has one there is none; then it is that of the slowest."""
    written.acknowledge({0: at(1, 9)})
    assert written.index.watermark() is None
    written.acknowledge({0: at(1, 9), 1: at(1, 4)})
    assert written.index.watermark() == Timestamp(4, 1)


def test_a_heartbeat_that_comes_again(written: Written) -> None:
    """After a takeover old heartbeats come again: the watermark does not go back."""
    written.acknowledge({0: at(9, 9), 1: at(9, 9)})
    written.acknowledge({0: at(3, 3), 1: at(9, 9)})
    assert written.index.watermark() == Timestamp(9, 1)


def test_only_its_own_share_is_swept(written: Written) -> None:
    """Below a floor that all partitions have passed, the documents of those that are read here
    are removed, and no others."""
    documents = [put(n, (5, n)) for n in range(20)]
    written.pipeline.run(*documents, Floor(collection="notes", version=Version(6, 0)))
    of = {d.key: Share(partition_of(d.key, PARTITIONS), PARTITIONS) for d in documents}
    assert len(set(of.values())) == 2
    other = Mark(partition=1, of=PARTITIONS, generation=1, beat=9, watermark=Timestamp(9, 1))
    written.index.put_marks([Advance(other, begins=True)])
    written.acknowledge({0: at(1, 9)})
    left = written.index.entries(list(of))
    assert {of[key] for key in left} == {Share(1, 2)}
    assert len(left) == sum(share == Share(1, 2) for share in of.values())


def test_nothing_is_swept_before_all_partitions_are_there(written: Written) -> None:
    """A renamed document may still take its vectors from one that lies below the floor."""
    written.pipeline.run(put(1, (5, 1)), Floor(collection="notes", version=Version(6, 0)))
    written.acknowledge({0: at(1, 9), 1: at(1, 4)})
    assert len(written.index.entries([key_of("notes", 1)])) == 1


def test_waits_while_the_index_is_away(written: Written) -> None:
    """An index that does not answer is waited for; nothing is acknowledged before."""
    store: Any = written.pipeline.store
    store.refuse(1)
    written.acknowledge({0: at(1, 9)})
    assert written.story == ["flush", "acknowledge 0:1"]
    assert written.index.marks()[0].watermark == Timestamp(9, 1)


def test_a_gap_is_told_until_a_new_generation_closes_it(written: Written) -> None:
    """An index that is new on an old subscription never counts as in line; what comes is
    acknowledged all the same."""
    late = {k: at(7, 9, begins=False) for k in range(PARTITIONS)}
    assert written.acknowledge(late), "wants to look again"
    assert "partitions [0, 1]" in written.control.waiting["snapshot"]
    assert written.index.watermark() is None
    assert "acknowledge 0:7" in written.story
    written.acknowledge({**late, 0: at(8, 1, generation=2)})
    assert "partitions [1]" in written.control.waiting["snapshot"]
    written.acknowledge({k: at(8, 1, generation=2) for k in range(PARTITIONS)})
    assert not written.control.waiting
    assert written.index.watermark() == Timestamp(1, 1)


def test_a_gap_that_another_one_closes_is_not_told_on(written: Written) -> None:
    """The partition has moved to another replica, and nothing of it comes here any more."""
    written.acknowledge({0: at(7, 9, begins=False)})
    assert written.control.waiting
    closed = Mark(partition=0, of=PARTITIONS, generation=2, watermark=None)
    written.index.put_marks([Advance(closed, begins=True)])
    written.acknowledge({0: at(7, 9, begins=False)})
    assert not written.control.waiting


def test_an_index_that_is_rolled_back_under_the_flow_is_found_out(written: Written) -> None:
    """What this flow has put must be there when it puts the next mark."""
    both = {k: at(7, 9) for k in range(PARTITIONS)}
    written.acknowledge(both)
    written.index.feed_directly()
    written.index.feed_from_topic(PARTITIONS)
    written.acknowledge({**both, 0: at(8, 10)})
    assert "[0, 1]" in written.control.waiting["snapshot"]
