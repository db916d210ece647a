"""The Bytewax source: snapshots and the change stream of one MongoDB database, side by side.

Delivery: at least once, in the order of the stream; snapshot documents come whenever the stream
has nothing. A position is acknowledged only when everything emitted before it is written: Bytewax
lets a source emit into an epoch only when all of the epoch before has gone through every sink, so
at `snapshot()` all that had been emitted by the `snapshot()` before is written. After a crash what
followed the last acknowledged position comes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Literal, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.mongo import Client, MongoScope
from connectors.mongo_events import Happening
from connectors.mongo_follower import Begin, Follower
from connectors.mongo_progress import PositionOwner, Progress
from connectors.mongo_snapshot import Finished, SnapshotReader
from connectors.mongo_stream import Idle
from connectors.paging import PageSize
from models.records import ALL_COLLECTIONS, Change, Floor, Position, Timestamp
from syncline.control import Control
from syncline.errors import Stopped

STREAM_TURNS = 8
"""Batches of the stream after which a page of a running snapshot has its turn."""
IDLE_ACKNOWLEDGE_SECONDS = 1.0
"""How often the position of an idle stream is written: far below any oplog's length."""
EPOCHS_TO_STOP = 2
"""What was emitted before the first `snapshot()` of a stop is written at the second."""
CLOSE_SECONDS = 2.0
"""How long the reading threads are waited for; they hold nothing that a kill could damage."""


class Limits(NamedTuple):
    """How much is handed over at once, and how often an idle source is asked."""

    batch_changes: int = 500
    """Enough for full embedding batches; more would only delay what comes behind it."""
    batch_bytes: int = 16_000_000
    page_documents: int = 2000
    """Largest page of a snapshot; its size adapts to the work on it."""
    poll_milliseconds: int = 2


class MongoSource(FixedPartitionedSource[Change, None]):
    """Changes of the documents in `scope`, as one partition named `mongo`.

    `load_position` and `acknowledge` belong to the owner of the position; they are called from
    other threads than the caller's, and `acknowledge` never twice at once. A position of another
    `scope_fingerprint` than the given one begins a new generation. `rebase` is called at the start
    if the cluster's time stays before the position's: what it stands for must then count as older
    than all that comes; without it, that is an error. Errors go to `control`, and a
    stop asked for there ends the source after a last acknowledgement.
    """

    def __init__(
        self,
        client: Client,
        scope: MongoScope,
        *,
        load_position: Callable[[], Position | None],
        acknowledge: Callable[[Position], object],
        scope_fingerprint: str,
        control: Control,
        on_lost_history: Literal["snapshot", "fail"] = "snapshot",
        rebase: Callable[[], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        owner = PositionOwner(
            load_position, acknowledge, scope_fingerprint, on_lost_history, rebase
        )
        follower = Follower(client, scope, control, owner)
        snapshot = SnapshotReader(client, scope, control)
        self._partition = _Partition(follower, snapshot, control, acknowledge, limits or Limits())

    def list_parts(self) -> list[str]:
        """One part: order is all that a change stream has."""
        return ["mongo"]

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSourcePartition[Change, None]:
        """Start reading. May be called once; blocks for nothing."""
        self._partition.start()
        return self._partition


class _Emitted(NamedTuple):
    """What was emitted at one `snapshot()`: written at the next one."""

    position: Position
    changes: int
    last_event: Timestamp | None


class _Partition(StatefulSourcePartition[Change, None]):
    def __init__(
        self,
        follower: Follower,
        snapshot: SnapshotReader,
        control: Control,
        acknowledge: Callable[[Position], object],
        limits: Limits,
    ) -> None:
        self._follower = follower
        self._snapshot = snapshot
        self._control = control
        self._send = acknowledge
        self._limits = limits
        self._page = PageSize(limits.page_documents)
        self._progress: Progress | None = None
        self._changes = 0
        self._emitted: _Emitted | None = None
        self._acknowledged: _Emitted | None = None
        self._acknowledged_at = 0.0
        self._epochs_stopping = 0
        self._stream_turns = 0
        self._again = False

    def start(self) -> None:
        """Start the reading threads."""
        self._follower.thread.start()
        self._snapshot.thread.start()

    # --- emitting -------------------------------------------------------------------------

    def next_batch(self) -> Iterable[Change]:
        """What has arrived, without waiting. Raises StopIteration when the flow has to end."""
        self._page.returned()
        if self._is_over():
            raise StopIteration
        if self._control.stop_requested:
            return []
        try:
            return self._take()
        except BaseException as error:
            self._control.fail(error)
            raise StopIteration from error

    def next_awake(self) -> datetime | None:
        """At once while something waits."""
        waiting = len(self._follower.inbox) or (self._progress and len(self._snapshot.inbox))
        if waiting and not self._control.stop_requested:
            return None
        return datetime.now(timezone.utc) + timedelta(milliseconds=self._limits.poll_milliseconds)

    def _is_over(self) -> bool:
        control = self._control
        if control.aborted or control.error is not None:
            return True
        return control.stop_requested and self._epochs_stopping >= EPOCHS_TO_STOP

    def _take(self) -> list[Change]:
        """The stream comes first, but a stream that never rests must not stop a snapshot."""
        if self._stream_turns < STREAM_TURNS and (changes := self._take_stream()):
            self._stream_turns += 1
            return changes
        self._stream_turns = 0
        return self._take_snapshot() or self._take_stream()

    def _take_stream(self) -> list[Change]:
        changes: list[Change] = []
        for item in self._follower.inbox.take(self._limits.batch_changes, self._limits.batch_bytes):
            if isinstance(item, Begin):
                changes += self._begin(item)
                continue
            assert self._progress is not None
            if isinstance(item, Idle):
                self._progress.rested(item)
                continue
            changes += item.changes
            self._changes += item.documents
            self._happened(self._progress, item)
        return changes

    def _begin(self, begin: Begin) -> list[Change]:
        for collection in self._control.backfill:
            self._control.end_backfill(collection)
        self._progress = Progress(begin.position)
        self._read_snapshots(self._progress)
        self._control.begin()
        if not begin.fresh:
            return []
        start, generation = begin.position.start, begin.position.generation
        return [Floor(collection=ALL_COLLECTIONS, version=start, generation=generation)]

    def _happened(self, progress: Progress, happening: Happening) -> None:
        progress.happened(happening)
        for collection in happening.ended:
            self._control.end_backfill(collection)
        if happening.ended or happening.begun:
            self._read_snapshots(progress)

    def _read_snapshots(self, progress: Progress) -> None:
        for cursor in progress.cursors:
            self._control.estimate_backfill(cursor.collection, 0)
        self._snapshot.read(progress.cursors)

    def _take_snapshot(self) -> list[Change]:
        progress = self._progress
        if progress is None:
            return []
        page: list[Change] = []
        for item in self._snapshot.inbox.take(self._page.documents, self._limits.batch_bytes):
            if not progress.is_running(item.cursor):
                continue
            if isinstance(item, Finished):
                progress.finished(item.cursor)
                self._control.end_backfill(item.cursor.collection)
                continue
            progress.found(item)
            self._control.count_backfill(item.cursor.collection, 1)
            page.append(item.change)
        self._control.count_received(len(page))
        self._changes += len(page)
        self._page.took(len(page))
        return page

    # --- acknowledging --------------------------------------------------------------------

    def snapshot(self) -> None:
        """End of an epoch: all that had been emitted by the one before is written."""
        try:
            self._close_epoch()
        except Stopped:
            self._control.abort()
        except BaseException as error:
            self._control.fail(error)

    def _close_epoch(self) -> None:
        control = self._control
        if self._progress is None or control.aborted or control.error is not None:
            self._epochs_stopping += control.stop_requested
            return
        written = self._emitted
        last = self._progress.last
        self._emitted = _Emitted(
            self._progress.position(),
            self._changes,
            Timestamp(last.seconds, last.increment) if last else None,
        )
        if written is not None and self._is_due(written):
            self._acknowledge(written)
        self._epochs_stopping += control.stop_requested

    def _acknowledge(self, written: _Emitted) -> None:
        self._again = bool(self._send(written.position))
        before = self._acknowledged.changes if self._acknowledged else 0
        self._control.count_acknowledged(written.changes - before)
        self._acknowledged, self._acknowledged_at = written, time.monotonic()
        self._follower.acknowledged(written.position)

    def _is_due(self, written: _Emitted) -> bool:
        """At once for anything that somebody may wait for; now and then for an idle stream."""
        before = self._acknowledged
        if before is None:
            return True
        if self._control.stop_requested:
            return True
        if written.position == before.position and not self._again:
            return False
        return (
            written.changes > before.changes
            or written.position.cursors != before.position.cursors
            or written.position.generation != before.position.generation
            or written.position.last != before.position.last
            or _shows(written) > _shows(before)
            or time.monotonic() - self._acknowledged_at >= IDLE_ACKNOWLEDGE_SECONDS
        )

    def close(self) -> None:
        """End the reading threads."""
        self._follower.inbox.close()
        self._snapshot.close()
        for thread in (self._follower.thread, self._snapshot.thread):
            thread.join(CLOSE_SECONDS / 2)
        self._control.ended()


def _shows(emitted: _Emitted) -> bool:
    """Whether the watermark has passed the last event, so that its writer can see it."""
    watermark = emitted.position.watermark
    return (
        watermark is not None
        and emitted.last_event is not None
        and (watermark >= emitted.last_event)
    )
