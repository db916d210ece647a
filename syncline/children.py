"""Processes of Syncline's own that another one starts, watches, and starts again when they die.

A child announces itself in the run file of its data directory. It ends with its parent, however
that ends (see `local.guard`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import httpx
import structlog

from syncline.errors import SynclineError
from syncline.local.process import LocalProcess, lock_directory
from syncline.runtime import find_running

_log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
"""Between two starts of a child that dies at once; one that lived longer than this starts anew."""
ASK_SECONDS = 2.0
MISCONFIGURED = 2
"""The exit code that a restart cannot mend."""


class Kept(Protocol):
    """A process that is kept alive."""

    name: str

    def start(self) -> None:
        """Start it."""

    def keep_alive(self) -> bool:
        """Start it again if it has ended; whether it had.

        Raises `SynclineError` if that cannot help.
        """

    def status(self) -> Mapping[str, Any]:
        """What it tells of itself, with its `pid`; empty while it does not answer."""

    def ask_to_stop(self) -> None:
        """Begin to end it, without waiting."""

    def stop(self) -> None:
        """End it and wait until it is gone."""


class Child:
    """One `syncline` command, run again whenever it ends by itself; each time as `command` says."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Mapping[str, str],
        data_dir: Path,
        *,
        api_key: str = "",
    ) -> None:
        self.name = name
        self._command = command
        self._environment = {**os.environ, **environment}
        self._data_dir = data_dir
        self._process: LocalProcess | None = None
        self._patience = Patience()
        self._before: dict[str, int] = {}
        self._last: tuple[int, dict[str, int]] = (0, {})
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(timeout=ASK_SECONDS, headers=headers, trust_env=False)

    def start(self) -> None:
        """Start it. Raises `Misconfigured` if another one uses its directory."""
        lock = lock_directory(self._data_dir, self.name)
        (self._data_dir / "run.json").unlink(missing_ok=True)
        self._process = LocalProcess(
            [sys.executable, "-m", "syncline", *self._command(), "--data-dir", str(self._data_dir)],
            log=self._data_dir / f"{self.name}.log",
            lock=lock,
            environment=self._environment,
        )
        self._patience.started()

    def keep_alive(self) -> bool:
        """Start it again if it has ended; whether it had."""
        if self._process is None or not self._process.has_ended():
            return False
        if self._process.exit_code == MISCONFIGURED:
            raise SynclineError(f"{self.name} cannot run:\n{self._process.last_words()}")
        if not self._patience.may_start():
            return False
        _log.warning("process_ended", name=self.name, status=self._process.exit_code)
        self._process.stop()
        self.start()
        return True

    def facts(self) -> dict[str, Any]:
        """What it announced of itself: process id and address; empty until it is ready."""
        return find_running(self._data_dir) or {}

    def status(self) -> Mapping[str, Any]:
        """Its `/v1/status`; empty while it does not answer."""
        facts = self.facts()
        if not facts:
            return {}
        try:
            answer = self._http.get(f"{facts['http']}/v1/status")
            status: dict[str, Any] = answer.json() if answer.is_success else {}
        except (httpx.TransportError, ValueError):
            return {}
        return {**status, "pid": facts["pid"]} if status else {}

    def totals(self, status: Mapping[str, Any], names: Sequence[str]) -> dict[str, int]:
        """These counters, summed over all the lives of the child that were seen."""
        last_pid, last = self._last
        pid = status.get("pid", last_pid)
        if pid != last_pid:
            self._before = {name: self._before.get(name, 0) + last.get(name, 0) for name in names}
            last = {}
        now = {name: status.get(name, last.get(name, 0)) for name in names}
        self._last = (pid, now)
        return {name: self._before.get(name, 0) + now[name] for name in names}

    def ask_to_stop(self) -> None:
        """Begin to end it, without waiting."""
        if self._process:
            self._process.ask_to_stop()

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self._process:
            self._process.stop()
        self._http.close()


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
    """Several processes, watched by one thread. A context: they run as long as it does."""

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
                died = [child.keep_alive() for child in self.all]
                if any(died):
                    self._on_death()
            except OSError as error:  # of too many files, a full disk, ...: it may pass
                _log.warning("process_not_started", reason=str(error))
            except SynclineError as error:
                self.error = error
