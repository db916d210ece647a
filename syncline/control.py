"""What one flow and its surroundings share: stop, failure, and how far it has come. No I/O.

A flow ends only through its source: whoever wants it to end asks here, and the source obeys.
All members may be used from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal, NamedTuple

State = Literal["starting", "backfilling", "streaming", "waiting", "stopping", "stopped"]


class Progress(NamedTuple):
    """Documents of one collection's snapshot: emitted, and an estimate of all there are."""

    done: int
    total: int


class Control:
    """One flow's shared state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._aborted = False
        self._started = False
        self._ended = False
        self._waiting: dict[str, str] = {}
        self._backfill: dict[str, Progress] = {}
        self._received = 0
        self._acknowledged = 0

    # --- ending -------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask the flow to write what it has emitted, acknowledge it and end."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether the flow has been asked to end."""
        return self._stop.is_set()

    def wait_stop(self, seconds: float) -> bool:
        """Sleep up to `seconds`, or until a stop is asked for; whether it was."""
        return self._stop.wait(seconds)

    def fail(self, error: BaseException) -> None:
        """End the flow because of `error`; nothing more is acknowledged. The first one counts."""
        with self._lock:
            if self._error is None:
                self._error = error
        self._stop.set()

    @property
    def error(self) -> BaseException | None:
        """Why the flow ended, or None."""
        return self._error

    def abort(self) -> None:
        """Emitted changes were given up: end, and acknowledge nothing any more."""
        self._aborted = True
        self._stop.set()

    @property
    def aborted(self) -> bool:
        """Whether emitted changes were given up."""
        return self._aborted

    def ended(self) -> None:
        """The flow is over."""
        self._ended = True

    # --- services -----------------------------------------------------------------------------

    def unavailable(self, service: str, reason: str) -> bool:
        """`service` does not answer and is being waited for; whether that is news."""
        with self._lock:
            news = service not in self._waiting
            self._waiting[service] = reason
            return news

    def available(self, service: str) -> bool:
        """`service` answers; whether it was being waited for."""
        with self._lock:
            return self._waiting.pop(service, None) is not None

    @property
    def waiting(self) -> Mapping[str, str]:
        """Services being waited for, each with the reason."""
        with self._lock:
            return dict(self._waiting)

    # --- progress -----------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Changes of documents that the source has read since start."""
        return self._received

    @property
    def acknowledged(self) -> int:
        """Changes of documents that are written and acknowledged since start."""
        return self._acknowledged

    @property
    def pending(self) -> int:
        """Changes read and not yet acknowledged."""
        with self._lock:
            return self._received - self._acknowledged

    def count_received(self, changes: int) -> None:
        """The source has read `changes` more."""
        with self._lock:
            self._received += changes

    def count_acknowledged(self, changes: int) -> None:
        """`changes` more are written and acknowledged."""
        with self._lock:
            self._acknowledged += changes

    def begin(self) -> None:
        """The source knows its position and reads."""
        self._started = True

    @property
    def backfill(self) -> Mapping[str, Progress]:
        """The snapshots that are running, by collection."""
        with self._lock:
            return dict(self._backfill)

    def estimate_backfill(self, collection: str, total: int) -> None:
        """The snapshot of `collection` runs, and has about `total` documents."""
        with self._lock:
            known = self._backfill.get(collection, Progress(0, 0))
            self._backfill[collection] = known._replace(total=max(total, known.done))

    def count_backfill(self, collection: str, documents: int) -> None:
        """`documents` more of the snapshot of `collection` are emitted."""
        with self._lock:
            done, total = self._backfill.get(collection, Progress(0, 0))
            self._backfill[collection] = Progress(done + documents, max(total, done + documents))

    def end_backfill(self, collection: str) -> None:
        """The snapshot of `collection` is over."""
        with self._lock:
            self._backfill.pop(collection, None)

    @property
    def state(self) -> State:
        """What the flow is doing, in one word."""
        if self._ended:
            return "stopped"
        if self.stop_requested:
            return "stopping"
        with self._lock:
            if self._waiting:
                return "waiting"
            if not self._started:
                return "starting"
            return "backfilling" if self._backfill else "streaming"
