"""One process of Syncline's own that another one keeps alive: it is started again when it dies, and
killed when it hangs.

It announces itself in the run file of its data directory, which it removes when it ends in order.
It ends with its parent, however that ends (see `local.guard`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import structlog

from syncline.children import Patience
from syncline.errors import SynclineError
from syncline.local.process import LocalProcess, lock_directory
from syncline.runtime import find_running

_log = structlog.get_logger(__name__)

ASK_SECONDS = 2.0
"""Longest wait for an answer of `/healthz` or `/v1/status`, and how often the first is asked."""
HUNG_SECONDS = 30.0
"""Unanswered for so long, a child that has announced itself is killed. A busy one answers within a
second, because a thread of its own does; only a hung one keeps its partitions from all others, for
which half a minute is short. Starting, which loads the model, may take as long as it needs."""
MISCONFIGURED = 2
"""The exit code that a restart cannot mend."""

_SYNCLINE = (sys.executable, "-m", "syncline")


class Child:
    """One `syncline` command, run again whenever it ends by itself or hangs; each time as
    `command` says."""

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
        self._run_file = data_dir / "run.json"
        self._process: LocalProcess | None = None
        self._patience = Patience()
        self._asked_at = 0.0
        self._asked_in_vain = 0
        self._before: dict[str, int] = {}
        self._last: tuple[int, dict[str, int]] = (0, {})
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(timeout=ASK_SECONDS, headers=headers, trust_env=False)

    def start(self) -> None:
        """Start it. Raises `Misconfigured` if another one uses its directory, and `OSError`."""
        self._patience.started()
        self._asked_in_vain = 0
        lock = lock_directory(self._data_dir, self.name)
        self._run_file.unlink(missing_ok=True)
        try:
            self._process = LocalProcess(
                [*_SYNCLINE, *self._command(), "--data-dir", str(self._data_dir)],
                log=self._data_dir / f"{self.name}.log",
                lock=lock,
                environment=self._environment,
            )
        except BaseException:
            lock.close()
            raise

    def keep_alive(self) -> bool:
        """Kill it if it hangs, take note if it has ended, and start it again the next time.

        True if it was found dead and had not ended in order: what it held may still be held.
        Raises `SynclineError` if it cannot run, and `OSError` if it cannot be started now.
        """
        process = self._process
        if process is None:
            if self._patience.may_start():
                self.start()
            return False
        if not process.has_ended():
            if not self._is_hung():
                return False
            _log.error("process_hangs", name=self.name, seconds=HUNG_SECONDS)
            process.kill()
        if process.exit_code == MISCONFIGURED:
            raise SynclineError(f"{self.name} cannot run:\n{process.last_words()}")
        return self._bury(process)

    def _bury(self, process: LocalProcess) -> bool:
        _log.warning("process_ended", name=self.name, status=process.exit_code)
        process.stop()
        self._process = None
        # One that was not ready yet has come to no broker, and one that ended in order has left it.
        in_order = not self._run_file.exists()
        self._run_file.unlink(missing_ok=True)
        return not in_order

    def _is_hung(self) -> bool:
        # Counted, not timed: while this process itself stands still, nobody is asked.
        now = time.monotonic()
        if not self._run_file.exists() or now < self._asked_at + ASK_SECONDS:
            return False
        self._asked_at = now
        self._asked_in_vain = 0 if self._answers() else self._asked_in_vain + 1
        return self._asked_in_vain * ASK_SECONDS >= HUNG_SECONDS

    def _answers(self) -> bool:
        facts = self.facts()
        try:
            return bool(facts) and self._http.get(f"{facts['http']}/healthz").is_success
        except httpx.TransportError:
            return False

    @property
    def runs(self) -> bool:
        """Whether it was started and has not been found dead since."""
        return self._process is not None

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
