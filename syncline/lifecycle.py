"""What every long-running command shares: signals, the local database, and the life of a flow."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from syncline.control import Control
from syncline.errors import Misconfigured, SynclineError
from syncline.settings import Configuration
from syncline.telemetry import Telemetry

STOP_SECONDS = 6.0
"""A stop takes one slice of embedding and two epochs; past this the process ends anyway, which
loses nothing: every write is a difference against what is stored."""
_POLL_SECONDS = 0.05

OnReady = Callable[[Mapping[str, Any]], None]


class RunningFlow(Protocol):
    """A flow in a thread of its own: the direct one, capture or index."""

    control: Control
    telemetry: Telemetry

    def start(self) -> None: ...

    def join(self, seconds: float) -> bool: ...

    @property
    def alive(self) -> bool: ...

    def status(self) -> Mapping[str, Any]: ...

    def ready(self) -> tuple[bool, Mapping[str, str]]: ...


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def redacted(uri: str) -> str:
    """A connection string's hosts: user, password and options, which may hold secrets, left out."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{re.split('[/?]', rest.rpartition('@')[2])[0]}/"


@contextlib.contextmanager
def mongo_of(config: Configuration) -> Iterator[str]:
    """The configured MongoDB's URI, or that of a local one that runs as long as the context."""
    uri = config.mongo.uri.get_secret_value()
    if uri:
        yield uri
        return
    from syncline.local.mongo import start_mongo

    local = start_mongo(config.local.data_dir / "mongo", config.local.mongo_port)
    try:
        yield local.uri
    finally:
        local.stop()


def need_server(config: Configuration, command: str) -> None:
    if not config.qdrant.url:
        raise Misconfigured(
            f"`syncline {command}` needs a Qdrant server, which several processes can open",
            "set qdrant.url, or use `syncline up` for the embedded one",
        )


def need_broker(config: Configuration, command: str) -> None:
    if not config.pulsar.url:
        raise Misconfigured(
            f"`syncline {command}` needs an Apache Pulsar broker",
            "set pulsar.url, or use `syncline up`, with --with-pulsar for a local broker",
        )


def run_until_stopped(
    worker: RunningFlow,
    stop: threading.Event,
    announce: Callable[[], None],
    *,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Announce a started flow once it is ready, and wait for a signal.

    Raises what ended the flow, if it was not a signal, or what `check` raises meanwhile.
    """
    announced = False
    while worker.alive and not stop.wait(_POLL_SECONDS):
        check()
        if not announced and worker.ready()[0]:
            announce()
            announced = True
    if worker.control.error is not None:
        raise worker.control.error
    if not stop.is_set():
        raise SynclineError("the flow ended by itself, which is a defect; its log says more")


def stop_flow(worker: RunningFlow) -> None:
    """Let it write and acknowledge what it has read."""
    worker.control.request_stop()
    worker.join(STOP_SECONDS)
