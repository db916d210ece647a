"""When the index flow's source emits, and when it acknowledges; without a broker or an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pulsar
import pytest
from bytewax.inputs import StatefulSourcePartition

from connectors.inbox import Inbox
from connectors.pulsar_consumers import Arrival, Arriving, PulsarConsumers
from connectors.pulsar_source import Limits, Places, PulsarSource
from models.records import ALL_COLLECTIONS, Advance, Floor, Mark, Timestamp, Version
from models.wire import Heartbeat
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped
from tests.pipeline import put

PARTITIONS = 2


class Consumers:
    """An inbox to be filled by hand, in the place of the real consumers."""

    def __init__(self) -> None:
        self.inbox: Inbox[Arrival] = Inbox(10**9)
        self.topics = tuple(f"t-{k}" for k in range(PARTITIONS))
        self.closed = False

    def start(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def at(entry: int) -> pulsar.MessageId:
    return pulsar.MessageId(-1, 0, entry, -1)


def beat(second: int, partitions: int = PARTITIONS, *, number: int = 1) -> Heartbeat:
    return Heartbeat(
        generation=1,
        beat=number,
        watermark=Timestamp(second, 1),
        partitions=partitions,
    )


def reached(driven: Driven, partition: int = 0) -> Timestamp | None:
    advance = driven.places[partition].advance
    return advance and advance.mark.watermark


class Driven:
    """A source driven as the engine does it, epoch by epoch."""

    def __init__(self, answer: Callable[[Places], bool] = lambda places: False) -> None:
        self.consumers = Consumers()
        self.control = Control()
        self.acknowledged: list[dict[int, int]] = []
        self.places: Places = {}
        self._answer = answer
        source = PulsarSource(
            cast(PulsarConsumers, self.consumers),
            acknowledge=self._acknowledge,
            control=self.control,
            limits=Limits(batch_messages=3),
        )
        part: StatefulSourcePartition[Any, None] = source.build_part("pulsar", "pulsar", None)
        self.part = part

    def _acknowledge(self, places: Places) -> bool:
        self.places = places
        self.acknowledged.append({k: place.id.entry_id() for k, place in places.items()})
        return self._answer(places)

    def arrive(self, entry: int, content: Arriving | Heartbeat, partition: int = 0) -> None:
        self.control.count_received(not isinstance(content, Floor | Heartbeat))
        self.consumers.inbox.put(Arrival(partition, at(entry), content))

    def epoch(self) -> list[Any]:
        emitted = list(self.part.next_batch())
        self.part.snapshot()
        return emitted


def test_acknowledges_only_what_the_epoch_before_emitted() -> None:
    """What was emitted in the epoch that ends may not be written yet."""
    driven = Driven()
    first, second = put(1, (5, 1)), put(2, (6, 1))
    driven.arrive(1, first)
    assert driven.epoch() == [first]
    assert driven.acknowledged == []
    driven.arrive(2, second)
    assert driven.epoch() == [second]
    assert driven.acknowledged == [{0: 1}]
    assert driven.control.pending == 1
    driven.epoch()
    assert driven.acknowledged == [{0: 1}, {0: 2}]
    assert driven.control.pending == 0


def test_places_are_kept_by_partition() -> None:
    """Each partition has a place of its own, and those that brought nothing have none."""
    driven = Driven()
    driven.arrive(7, put(1, (5, 1)), partition=1)
    driven.epoch()
    driven.arrive(3, put(2, (5, 2)), partition=0)
    driven.epoch()
    driven.epoch()
    assert driven.acknowledged == [{1: 7}, {1: 7, 0: 3}]


def test_heartbeats_are_noted_where_they_stand() -> None:
    """A heartbeat is not emitted; its watermark counts when all before it is written."""
    driven = Driven()
    driven.arrive(1, put(1, (5, 1)))
    driven.arrive(2, beat(5))
    driven.arrive(3, put(2, (6, 1)))
    driven.arrive(4, beat(6, number=2))
    assert len(driven.epoch()) == 2
    driven.epoch()
    assert reached(driven) == Timestamp(5, 1)
    driven.epoch()
    assert reached(driven) == Timestamp(6, 1)


def test_what_came_without_a_gap_is_one_advance() -> None:
    """From the begin of a generation on, or from the first heartbeat; old ones that come again
    change nothing, a watermark never goes back, and behind a gap it counts from there."""
    driven = Driven()
    begin = Floor(collection=ALL_COLLECTIONS, version=Version(1, 0), generation=1)
    steps: list[tuple[Floor | Heartbeat, Advance]] = [
        (begin, advance(0, None, begins=True)),
        (beat(5, number=1), advance(1, 5, begins=True)),
        (beat(7, number=2), advance(2, 7, begins=True)),
        (beat(5, number=1), advance(2, 7, begins=True)),
        (beat(6, number=3), advance(3, 7, begins=True)),
        (beat(10, number=5), advance(5, 10, after=4)),
        (beat(11, number=6), advance(6, 11, after=4)),
    ]
    for entry, (content, expected) in enumerate(steps):
        driven.arrive(entry, content)
        driven.epoch()
        driven.epoch()
        assert driven.places[0].advance == expected


def advance(number: int, reached: int | None, *, after: int = 0, begins: bool = False) -> Advance:
    watermark = None if reached is None else Timestamp(reached, 1)
    mark = Mark(partition=0, of=PARTITIONS, generation=1, beat=number, watermark=watermark)
    return Advance(mark, after, begins)


def test_nothing_new_is_not_acknowledged_again() -> None:
    """An idle topic costs no writes, unless there is something left to do."""
    left = [True, True, False]
    driven = Driven(lambda places: left.pop(0))
    driven.arrive(1, put(1, (5, 1)))
    for _ in range(10):
        driven.epoch()
    assert driven.acknowledged == [{0: 1}] * 3


def test_other_number_of_partitions() -> None:
    """A capture flow that writes another number of partitions is refused, and nothing moves."""
    driven = Driven()
    driven.arrive(1, beat(5, partitions=3))
    with pytest.raises(StopIteration):
        driven.epoch()
    driven.part.snapshot()
    error = driven.control.error
    assert isinstance(error, Misconfigured)
    assert "3 partitions" in error.problem
    assert driven.acknowledged == []


def test_a_stop_acknowledges_what_is_written() -> None:
    """The source emits nothing more, acknowledges what it had emitted, and ends."""
    driven = Driven()
    driven.arrive(1, put(1, (5, 1)))
    driven.epoch()
    driven.control.request_stop()
    driven.arrive(2, put(2, (6, 1)))
    assert driven.epoch() == []
    assert driven.epoch() == []
    with pytest.raises(StopIteration):
        driven.part.next_batch()
    assert driven.acknowledged[-1] == {0: 1}
    driven.part.close()
    assert driven.consumers.closed
    assert driven.control.state == "stopped"


def test_given_up_changes_are_not_acknowledged() -> None:
    """After an abort nothing is acknowledged any more."""
    driven = Driven()
    driven.arrive(1, put(1, (5, 1)))
    driven.epoch()
    driven.control.abort()
    driven.part.snapshot()
    with pytest.raises(StopIteration):
        driven.part.next_batch()
    assert driven.acknowledged == []


def test_a_stop_while_the_index_is_away() -> None:
    """An acknowledgement that is given up for a stop ends the flow without an error."""

    def stopped(places: Places) -> bool:
        raise Stopped("while waiting")

    driven = Driven(stopped)
    driven.arrive(1, put(1, (5, 1)))
    driven.epoch()
    driven.epoch()
    assert driven.control.aborted
    assert driven.control.error is None


def test_batches_are_bounded() -> None:
    """A backlog is handed over in pieces, at once; floors are emitted, but are no documents."""
    driven = Driven()
    for entry in range(4):
        driven.arrive(entry, put(entry, (5, entry)))
    driven.arrive(4, Floor(collection="notes", version=Version(9, 0)))
    assert len(driven.epoch()) == 3
    assert driven.part.next_awake() is None
    assert len(driven.epoch()) == 2
    assert driven.part.next_awake() is not None
    driven.epoch()
    assert (driven.control.received, driven.control.pending) == (4, 0)
