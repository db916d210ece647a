"""Where capture goes on, however it was killed around the begin of a generation."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import pytest

from connectors.pulsar_position import PositionTopic
from connectors.pulsar_publisher import Publisher
from flows.capture import PublishedPosition
from models.records import ALL_COLLECTIONS, Change, Floor, Position, Timestamp, Version
from models.wire import Heartbeat
from syncline.control import Control

OLD = Position(generation=7, scope="s", start=Version(5, 0), watermark=Timestamp(9, 1), beat=3)
BEGIN = Floor(collection=ALL_COLLECTIONS, version=Version(20, 0), generation=8)


class Killed(BaseException):
    """The process is gone."""


class Topics:
    """The position topic and the partitions: what was written, in order, until it is killed."""

    def __init__(self, writes: int = 10**9) -> None:
        self.kept = [OLD]
        self.heard: list[Any] = []
        self._left = writes

    def _write(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    def load(self) -> Position:
        return max(reversed(self.kept), key=lambda position: position.generation)

    def put(self, position: Position) -> None:
        self._write()
        self.kept.append(position)

    partitions = 2

    def begin(self, position: Position) -> None:
        pass

    def publish(self, messages: list[Any]) -> None:
        self._write()
        self.heard += messages


def owner(topics: Topics) -> PublishedPosition:
    return PublishedPosition(cast(Publisher, topics), cast(PositionTopic, topics), Control())


@pytest.mark.parametrize("writes", range(4))
def test_behind_a_floor_nobody_goes_on_from_before_it(writes: int) -> None:
    """What would be read again from there lies below the floor, and every reader drops it."""
    topics = Topics(writes)
    begun = Position(generation=8, scope="s", start=BEGIN.version)
    with suppress(Killed):
        position = owner(topics)
        position.load()
        position.publish(cast(list[Change], [BEGIN]))
        position.acknowledge(begun)
    restarted = owner(topics).load()
    assert len(topics.kept) - 1 + len(topics.heard) == writes, "it was to be killed"
    if BEGIN in topics.heard:
        assert (restarted.generation, restarted.scope) == (8, ""), "it begins once more"


def test_heartbeats_are_numbered_across_restarts() -> None:
    """By one with each that tells anything new, from 1 in each generation."""
    topics = Topics()
    position = owner(topics)
    position.load()
    position.acknowledge(OLD)
    later = OLD.model_copy(update={"watermark": Timestamp(10, 1)})
    position.acknowledge(later)
    again = owner(topics)
    assert again.load().beat == 4
    again.acknowledge(later)
    again.acknowledge(OLD.model_copy(update={"watermark": Timestamp(11, 1)}))
    again.acknowledge(Position(generation=8, scope="s", start=BEGIN.version))
    beats = [(m.generation, m.beat) for m in topics.heard if isinstance(m, Heartbeat)]
    assert beats == [(7, 3), (7, 4), (7, 4), (7, 5), (8, 1)]
