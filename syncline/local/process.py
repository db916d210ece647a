"""A server process of our own: guarded, logged, locked to its data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from syncline.errors import Misconfigured

_GUARD = Path(__file__).with_name("guard.py")
LOCK_SECONDS = 8.0
"""How long a predecessor whose owner was killed may take to end: the guard's patience and more."""
STOP_SECONDS = 7.0
LOG_LINES = 15


class LocalProcess:
    """A running server. It ends with `stop()`, or when this process ends, however that happens."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        lock: IO[bytes],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._lock = lock
        self._pid_file = log.with_suffix(".pid")
        self._pid_file.unlink(missing_ok=True)
        if log.exists():  # the last words of the run before are the reason for this one
            log.replace(log.with_suffix(".log.1"))
        with log.open("wb") as output:
            # A session of its own: Ctrl-C in the terminal is for us, who then stop it in order.
            self._guard = subprocess.Popen(
                [sys.executable, "-I", str(_GUARD), str(self._pid_file), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                env=environment,
            )

    @property
    def pid(self) -> int:
        """Process id of the guard, which leads the server's process group."""
        return self._guard.pid

    @property
    def server_pid(self) -> int | None:
        """Process id of the server itself; None for the moment before it runs."""
        try:
            return int(self._pid_file.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def has_ended(self) -> bool:
        """Whether the server is no longer there."""
        return self._guard.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """With which status it ended, 128 more than the number of a signal; None while it runs."""
        return self._guard.poll()

    def ask_to_stop(self) -> None:
        """Begin to terminate it, without waiting."""
        if self._guard.stdin:
            self._guard.stdin.close()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def stop(self) -> None:
        """Terminate it, kill it if it is slow, and wait until it is gone. Again: nothing."""
        if self._lock.closed:
            return
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(STOP_SECONDS)
        self.kill()
        self._lock.close()

    def kill(self) -> None:
        """End it and all that it started, at once, hung or not. To be followed by `stop`."""
        # The group outlives a killed guard as long as anything is in it, and so does its number.
        # Of one that has just gone, macOS says that it may not be killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()


def lock_directory(directory: Path, owner: str) -> IO[bytes]:
    """Create `directory` and lock it for one server; the lock goes when its last holder ends.

    Raises `Misconfigured` if another one keeps it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / f"{owner}.lock").open("ab")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            lock.close()
            raise Misconfigured(
                f"another local {owner} server uses {directory}",
                "stop the other `syncline up`, or choose another local.data_dir",
                code="data_in_use",
            ) from None
        return lock


def choose_port(port: int, setting: str) -> int:
    """`port`, or a free one for 0. Raises `Misconfigured` if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise Misconfigured(
                f"{setting} = {port}: the port cannot be used ({error})",
                f"stop what listens there, or set {setting} to another port (0: any free one)",
            ) from error
        return int(probe.getsockname()[1])
