"""Several processes that are kept alive: one thread looks after all of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog

from syncline.errors import SynclineError

_log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
"""Between two starts of one that dies at once; one that lived longer than this starts anew."""


class Kept(Protocol):
    """A process that is kept alive."""

    name: str

    def start(self) -> None:
        """Start it."""

    def keep_alive(self) -> bool:
        """See to it that it runs, without waiting for that; called again and again.

        True once for each death after which others may have to let go of what it held. Raises
        `SynclineError` if it cannot run, and `OSError` if it cannot be started now.
        """

    def status(self) -> Mapping[str, Any]:
        """What it tells of itself, with its `pid`; empty while it does not answer."""

    def ask_to_stop(self) -> None:
        """Begin to end it, without waiting."""

    def stop(self) -> None:
        """End it and wait until it is gone."""


_Kept = TypeVar("_Kept", bound=Kept)


class Patience:
    """Keeps a process that dies at once from being started without a pause."""

    def __init__(self) -> None:
        self._started_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def started(self) -> None:
        """It was started now."""
        self._started_at = time.monotonic()

    def may_start(self) -> bool:
        """Whether it has been long enough since it was started last."""
        lived = time.monotonic() - self._started_at
        if lived < self._pause:
            return False
        died_young = lived < LONGEST_PAUSE_SECONDS
        self._pause = (
            min(2 * self._pause, LONGEST_PAUSE_SECONDS) if died_young else FIRST_PAUSE_SECONDS
        )
        return True


class Children(Generic[_Kept]):
    """A context: the processes run as long as it does.

    `on_death` is called once after each look at all of them that found some dead. An `OSError`, of
    too many files or a full disk, is logged and what failed is tried again; any other error stands
    in `error` and ends the watch.
    """

    def __init__(
        self, children: Sequence[_Kept], *, on_death: Callable[[], None] = lambda: None
    ) -> None:
        self.all = tuple(children)
        self._on_death = on_death
        self.error: SynclineError | None = None
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._keep_alive, name="syncline-watch", daemon=True)

    def __enter__(self) -> Children[_Kept]:
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop_all)
            for child in self.all:
                child.start()
            self._watch.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        self._stop_all()

    def _stop_all(self) -> None:
        for child in self.all:
            child.ask_to_stop()
        for child in self.all:
            child.stop()

    def _keep_alive(self) -> None:
        while self.error is None and not self._over.wait(WATCH_SECONDS):
            try:
                died = [self._has_died(child) for child in self.all]
                if any(died):
                    self._on_death()
            except SynclineError as error:
                self.error = error

    def _has_died(self, child: _Kept) -> bool:
        try:
            return child.keep_alive()
        except OSError as error:
            _log.warning("process_not_started", name=child.name, reason=str(error))
            return False
