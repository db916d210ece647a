"""The log lines of Pulsar's C++ client as ours.

They come through a pipe: a Python logger, which the client could call as well, would take the
interpreter's lock for every line, debug lines of each message included, in threads that hold
locks of the client's own.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from functools import cache

import structlog

_log = structlog.get_logger(__name__)

QUIET_SECONDS = 60.0
"""Every producer and consumer tells of the same outage at every try: each line of the client's
source speaks once in this time."""
PIPE_BYTES = 1 << 20
"""The client's threads wait when it is full: thousands of lines that nobody has read."""

_LINE = re.compile(r"\S+ \S+ (?P<level>[A-Z]+) +\[\w+\] (?P<place>\S+) \| (?P<text>.*)")
_SECRETS = re.compile(r"eyJ[\w-]{5,}(\.[\w-]*)*|(?<=://)[^/\s@]+@")


@cache
def log_pipe() -> str:
    """The path of a file to which the client may write; made once, as the client's logger is."""
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    threading.Thread(target=_follow, args=(reader,), name="pulsar-log", daemon=True).start()
    return f"/dev/fd/{writer}"


def _follow(reader: int) -> None:
    told = ClientLog()
    with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            told.line(line)


class ClientLog:
    """Tells lines of the client's log: no secrets, no floods."""

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def line(self, line: str) -> None:
        """One line. Its errors are warnings here: whether one ends something, we decide."""
        match = _LINE.match(line)
        if match is None:
            return
        place, now = match["place"], time.monotonic()
        if now < self._quiet_until.get(place, 0.0):
            self._left_out[place] = self._left_out.get(place, 0) + 1
            return
        self._quiet_until[place] = now + QUIET_SECONDS
        text = _SECRETS.sub("***", match["text"]).strip()[:500]
        left_out = self._left_out.pop(place, 0)
        if match["level"] in ("ERROR", "FATAL"):
            _log.warning("pulsar_client", message=text, left_out=left_out)
        else:
            _log.info("pulsar_client", message=text, left_out=left_out)
