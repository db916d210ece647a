"""Follows the change stream in a thread, from the stored position or a new one.

What it puts into its inbox is in the stream's order: first a `Begin`, then happenings and idle
times; another `Begin` when the history was lost and everything has to be read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from bson import json_util
from bson.errors import BSONError

from connectors.inbox import Inbox
from connectors.mongo import Client, MongoScope, cluster_time, list_collections
from connectors.mongo_events import Happening
from connectors.mongo_progress import PositionOwner
from connectors.mongo_stream import ChangeStream, Idle
from models.ids import decode_id
from models.records import Cursor, Position, Timestamp, Version
from syncline.control import Control
from syncline.errors import Misconfigured, PositionLost, Stopped, Unavailable
from syncline.retry import keep_trying

_log = structlog.get_logger(__name__)

BUFFER_BYTES = 64_000_000
"""Four of the largest documents, or some ten thousand usual changes."""
MAX_LOSSES = 3
"""So many lost histories in a row without the index having caught up once, and a person is asked:
reading everything again would go round for ever."""
CLOCK_PATIENCE_SECONDS = 10.0
"""A new primary may need a moment until it knows what the majority has committed."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Reading begins at `position`. `fresh`: it is a new generation, of which nothing was read."""

    position: Position
    fresh: bool


class Follower:
    """Puts `Begin`, `Happening` and `Idle` into `inbox` until a stop is asked for.

    What a person must know of goes to `control.fail`.
    """

    def __init__(
        self, client: Client, scope: MongoScope, control: Control, owner: PositionOwner
    ) -> None:
        self.inbox: Inbox[Begin | Happening | Idle] = Inbox(BUFFER_BYTES)
        self._client = client
        self._scope = scope
        self._control = control
        self._owner = owner
        self._stream = ChangeStream(client, scope, control)
        self._generation = 0
        self._newest: Version | None = None
        self._losses = 0
        self._caught_up = 0
        self.thread = threading.Thread(target=self._run, name="mongo-stream", daemon=True)

    def acknowledged(self, position: Position) -> None:
        """Everything up to `position` is written. Pages of a snapshot are no progress: only a
        finished one, with the stream past the time at which it was begun, lets losses be forgotten.
        """
        start = Timestamp(position.start.seconds, position.start.increment)
        if position.watermark is not None and position.watermark > start:
            self._caught_up = position.generation

    def _run(self) -> None:
        try:
            self._begin()
            while not self._control.stop_requested:
                self._follow()
        except Stopped:
            pass
        except BaseException as error:
            # After a stop nothing depends on this thread, and its client may be closed already.
            if not self._control.stop_requested:
                self._control.fail(error)

    def _follow(self) -> None:
        try:
            self._stream.follow(self._receive)
        except Unavailable as error:
            _log.debug("change_stream_interrupted", reason=error.reason)
        except PositionLost as lost:
            self._start_over(lost)

    def _receive(self, item: Happening | Idle) -> None:
        if isinstance(item, Idle):
            put = self.inbox.put_latest(item)
        else:
            self._control.count_received(item.documents)
            put = self.inbox.put(item, item.size)
        if not put:
            raise Stopped("the source was closed")

    # --- where to begin -------------------------------------------------------------------

    def _begin(self) -> None:
        stored = self._stored()
        self._newest = _newest(stored)
        self._generation = stored.generation if stored else 0
        now = self._now(self._owner.rebase)
        went_back = self._newest is not None and now < self._newest[:2]
        if stored is None or went_back or stored.scope != self._owner.fingerprint:
            self._new_generation(now)
            return
        token = None if stored.token is None else json_util.loads(stored.token)
        self._stream.seek(stored.start, token, stored.last)
        self._stream.known |= self._names(stored)
        try:
            keep_trying(self._stream.check_history, self._control)
        except PositionLost as lost:
            self._start_over(lost)
        else:
            self.inbox.put(Begin(stored, fresh=False))

    def _stored(self) -> Position | None:
        """The position that was kept; None if there is none, or none that can be gone on from."""
        try:
            stored = keep_trying(self._owner.load, self._control)
            if stored is not None:
                _check_readable(stored)
            return stored
        except PositionLost as lost:
            if self._owner.on_lost_history == "fail":
                raise _refused(lost) from lost
            _log.error("position_unreadable", reason=str(lost), action="everything is read again")
            return None

    def _start_over(self, lost: PositionLost) -> None:
        self._losses = 1 if self._caught_up == self._generation else self._losses + 1
        if self._owner.on_lost_history == "fail" or self._losses >= MAX_LOSSES:
            raise _refused(lost) from lost
        _log.error("history_lost", reason=str(lost), action="everything is read again")
        self._newest = max(filter(None, [self._newest, self._stream.last]), default=None)
        self._new_generation(self._now())

    def _new_generation(self, now: Timestamp) -> None:
        names = keep_trying(lambda: list_collections(self._client, self._scope), self._control)
        self._generation += 1
        self._newest = start = Version(*now)
        position = Position(
            generation=self._generation,
            scope=self._owner.fingerprint,
            start=start,
            cursors=tuple(Cursor(collection=name, version=start) for name in names),
        )
        self._stream.seek(start, None, None)
        self._stream.known |= self._names(position)
        self.inbox.put(Begin(position, fresh=True))

    def _names(self, position: Position) -> set[str]:
        return {*self._scope.collections, *(c.collection for c in position.cursors)}

    def _now(self, rebase: Callable[[], None] | None = None) -> Timestamp:
        """The cluster time. If it stays before what the index has seen, `rebase` is called, or
        `Misconfigured` raised."""
        waited = 0.0
        while True:
            now = keep_trying(lambda: cluster_time(self._client, self._scope), self._control)
            if self._newest is None or now >= (self._newest.seconds, self._newest.increment):
                return now
            if waited >= CLOCK_PATIENCE_SECONDS:
                break
            waited += 0.5
            if self._control.wait_stop(0.5):
                raise Stopped("stopped while waiting for MongoDB's clock")
        if rebase is None:
            raise _went_back(now, self._newest, can_rebase=self._owner.rebase is not None)
        _log.error(
            "cluster_time_went_back",
            now=str(now),
            seen=f"{self._newest.seconds}.{self._newest.increment}",
            action="the index's versions begin anew, and everything is read again",
        )
        keep_trying(rebase, self._control)
        return now


_LOST_REMEDY = (
    'set mongo.on_lost_history = "snapshot" to read everything again, and give MongoDB an oplog '
    "that covers your longest pause (replSetResizeOplog: size, minRetentionHours)"
)


def _newest(position: Position | None) -> Version | None:
    """The newest version that may stand in the index."""
    if position is None:
        return None
    watermark = Version(*position.watermark) if position.watermark else None
    return max(v for v in (position.start, position.last, watermark) if v is not None)


def _check_readable(position: Position) -> None:
    """Raises `PositionLost` if what the driver and the snapshots need of it cannot be read."""
    try:
        if position.token is not None and "_data" not in json_util.loads(position.token):
            raise ValueError("its token is none")
        for cursor in position.cursors:
            if cursor.last_id is not None:
                decode_id(cursor.last_id)
    except (ValueError, TypeError, LookupError, AttributeError, BSONError) as error:
        raise PositionLost(f"the position cannot be read ({error})") from error


def _refused(lost: PositionLost) -> PositionLost:
    return PositionLost(f"{lost}\n  remedy: {_LOST_REMEDY}")


def _went_back(now: Timestamp, newest: Version, *, can_rebase: bool) -> Misconfigured:
    remedy = "set qdrant.collection to a new name (or delete the index) and start again"
    return Misconfigured(
        f"MongoDB's cluster time {now} is before {newest.seconds}.{newest.increment}, which the "
        "index has seen: the database was restored to an earlier time, or is another one",
        "start Syncline again: it reads everything anew then" if can_rebase else remedy,
        code="mongo_went_back",
    )
