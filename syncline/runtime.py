"""What a data directory tells of its process: a lock while it is used, a small file to find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from syncline.errors import Misconfigured

_NAME = "run.json"
_LOCK = "run.lock"
PATIENCE_SECONDS = 1.0
"""A predecessor that is just ending is waited for; one that goes on is told at once."""


class RunFile:
    """Written on entry, removed on exit; holds the process id and the addresses, no secrets."""

    def __init__(self, data_dir: Path, *, http: str, mongo: str) -> None:
        self._path = data_dir / _NAME
        self.facts: dict[str, Any] = {"mongo": mongo, "http": http, "pid": os.getpid()}

    def __enter__(self) -> RunFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".tmp")
        partial.write_text(json.dumps(self.facts), encoding="utf-8")
        partial.replace(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


def find_running(data_dir: Path) -> dict[str, Any] | None:
    """The facts of the process that runs on this data directory, or None."""
    try:
        facts: dict[str, Any] = json.loads((data_dir / _NAME).read_text(encoding="utf-8"))
        address = urlsplit(facts["http"])
        # Its port, not its process id, which another process may have by now.
        with socket.create_connection((address.hostname, address.port), timeout=2):
            pass
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts


@contextlib.contextmanager
def claim(data_dir: Path) -> Iterator[None]:
    """Have `data_dir` to oneself, created if need be. The system frees it when the process ends.

    Raises `Misconfigured`, naming the process that has it, within `PATIENCE_SECONDS`.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / _LOCK).open("a+", encoding="ascii") as lock:
        _acquire(lock, data_dir)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _acquire(lock: IO[str], data_dir: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            lock.seek(0)
            raise Misconfigured(
                f"{data_dir} is in use by process {lock.read() or 'unknown'}",
                "stop that process, or choose another local.data_dir (--data-dir)",
                code="data_in_use",
            ) from None
        return
