"""Finding a Syncline that runs: it leaves a small file in its data directory while it does."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_NAME = "run.json"


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
