"""The local broker, kept alive at one address."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from syncline.children import Patience
from syncline.errors import Misconfigured
from syncline.local.pulsar import LocalPulsar, start_pulsar

_log = structlog.get_logger(__name__)


class Broker:
    """A local Pulsar that is started again, on the same port and data, when it dies."""

    name = "broker"

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._patience = Patience()
        self._local: LocalPulsar | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens, once it was started."""
        if self._local is None:
            raise ValueError("the broker was not started")
        return self._local.url

    def start(self) -> None:
        """Start it and wait until it answers. Again: nothing. Raises `Misconfigured`."""
        if self._local is None:
            self._patience.started()
            self._local = start_pulsar(self._data_dir)

    def keep_alive(self) -> bool:
        """Start it again if it has ended; its port may need a moment to be free."""
        with self._lock:
            ended = self._local is not None and self._local.process.has_ended()
            if ended and self._patience.may_start():
                self._start_again()
        return False  # its clients notice by themselves

    def forget_the_dead(self) -> None:
        """Let go of what a killed client held, by a restart: all others have to connect again.

        Pulsar Lite 0.2 frees the subscriptions of a connection that was closed, and never those
        of one that was reset, as that of a killed process mostly is. Pulsar frees both.
        """
        with self._lock:
            self._start_again()

    def _start_again(self) -> None:
        local = self._local
        if local is None:
            return
        local.stop()
        self._patience.started()
        try:
            self._local = start_pulsar(self._data_dir, urlsplit(local.url).port or 0)
        except (Misconfigured, OSError) as error:  # `keep_alive` tries again
            _log.warning("broker_not_started", reason=str(error))

    def status(self) -> Mapping[str, Any]:
        """Its process id and address; empty while it is down."""
        local = self._local
        if local is None or local.process.has_ended():
            return {}
        return {"state": "streaming", "pid": local.process.server_pid, "url": local.url}

    def ask_to_stop(self) -> None:
        """Begin to end it, without waiting."""
        if self._local:
            self._local.process.ask_to_stop()

    def stop(self) -> None:
        """End it; all that was confirmed is kept."""
        if self._local:
            self._local.stop()
