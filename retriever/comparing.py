"""`/v1/verify`: one comparison at a time, and how far the one that runs has come.

A comparison is handed in from above and runs where it was asked for; it reports to `report`, which
finds the request that waits for it in the context, so that nobody in between passes it on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_listener: ContextVar[Callable[[int, int, str], None] | None] = ContextVar("listener", default=None)


def report(done: int, total: int, what: str) -> None:
    """`done` of about `total` `what` (documents, entries, chunks) are compared."""
    if (listener := _listener.get()) is not None:
        listener(done, total, what)


class Turn:
    """Who may compare now. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Mapping[str, Any] = {}

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Whether it is free, and the caller's until the end of the context."""
        if not self._lock.acquire(blocking=False):
            yield False
            return
        token = _listener.set(self._listen)
        try:
            yield True
        finally:
            _listener.reset(token)
            self._progress = {}
            self._lock.release()

    def progress(self) -> Mapping[str, Any]:
        """`running`, and once it has begun what is being `compared`, `done` and `of` how many."""
        return {"running": self._lock.locked(), **self._progress}

    def _listen(self, done: int, total: int, what: str) -> None:
        self._progress = {"compared": what, "done": done, "of": max(done, total)}
