"""What the source has emitted, as a position: pure, so that every step can be tested. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bson import json_util

from connectors.mongo import just_below
from connectors.mongo_events import Happening
from connectors.mongo_snapshot import After, Found
from connectors.mongo_stream import Idle
from models.ids import encode_cursor_id
from models.records import Cursor, Position, Timestamp, Version


@dataclass(frozen=True)
class PositionOwner:
    """Where the position is kept, and what it must fit. Called from the source's threads."""

    load: Callable[[], Position | None]
    acknowledge: Callable[[Position], object]
    fingerprint: str
    """Of what is read and how it is mapped: another one begins a new generation."""
    on_lost_history: Literal["snapshot", "fail"] = "snapshot"
    rebase: Callable[[], None] | None = None
    """Lets what is kept count as older than anything to come; None where that cannot be done."""


class _Running(NamedTuple):
    begun: Cursor
    after: After


class Progress:
    """Everything emitted so far. `position()` becomes true when all of that is written."""

    def __init__(self, position: Position) -> None:
        self._origin = position
        self._token = position.token
        self._last = position.last
        # A snapshot shows at least what its own time shows, and the stream begins there.
        self._settled = Timestamp(position.start.seconds, position.start.increment)
        self._watermark = position.watermark
        self._running = {c.collection: _Running(c, None) for c in position.cursors}

    @property
    def cursors(self) -> tuple[Cursor, ...]:
        """The snapshots that are running, as they were begun."""
        return tuple(running.begun for running in self._running.values())

    @property
    def last(self) -> Version | None:
        """Version of the last event."""
        return self._last

    def is_running(self, cursor: Cursor) -> bool:
        """Whether this snapshot is neither finished nor overtaken by a drop or rename."""
        running = self._running.get(cursor.collection)
        return running is not None and running.begun.version == cursor.version

    def happened(self, happening: Happening) -> None:
        """An event was emitted."""
        self._token, self._last = json_util.dumps(happening.token), happening.version
        time = Timestamp(happening.version.seconds, happening.version.increment)
        # Another event of the same time may follow.
        self._settled = max(self._settled, just_below(time))
        for collection in happening.ended:
            self._running.pop(collection, None)
        for cursor in happening.begun:
            self._running[cursor.collection] = _Running(cursor, None)

    def rested(self, idle: Idle) -> None:
        """The stream had nothing more."""
        self._token = json_util.dumps(idle.token)
        if idle.time is not None:
            self._settled = max(self._settled, idle.time)

    def found(self, found: Found) -> None:
        """A document of a running snapshot was emitted."""
        collection = found.cursor.collection
        self._running[collection] = self._running[collection]._replace(after=found.after)

    def finished(self, cursor: Cursor) -> None:
        """All documents of a snapshot were emitted."""
        del self._running[cursor.collection]

    def position(self) -> Position:
        """Where reading goes on once everything emitted is written."""
        if not self._running:
            self._watermark = max(self._watermark or self._settled, self._settled)
        return self._origin.model_copy(
            update={
                "token": self._token,
                "last": self._last,
                "cursors": tuple(_cursor(running) for running in self._running.values()),
                "watermark": self._watermark,
            }
        )


def _cursor(running: _Running) -> Cursor:
    if running.after is None:
        return running.begun
    return running.begun.model_copy(update={"last_id": encode_cursor_id(*running.after)})
