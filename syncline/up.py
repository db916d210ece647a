"""`syncline up`, `sync` and `serve`: processes that run until they are told to stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from connectors.index import Index
from retriever.app import create_app
from retriever.search import Retriever
from syncline.assemble import describe, load_embedder, open_index
from syncline.errors import Misconfigured, SynclineError, Unavailable
from syncline.runtime import RunFile
from syncline.server import HttpServer
from syncline.settings import Configuration
from syncline.telemetry import Telemetry
from syncline.verification import verify_worker
from syncline.worker import Worker

STOP_SECONDS = 6.0
"""A stop takes one slice of embedding and two epochs; past this the process ends anyway, which
loses nothing: every write is a difference against what is stored."""
_POLL_SECONDS = 0.05

OnReady = Callable[[Mapping[str, Any]], None]


def up(config: Configuration, *, on_ready: OnReady) -> None:
    """Local parts (where no URL is set), flow and retriever in one process, until a signal.

    Raises what ended the flow, if it was not a signal.
    """
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = HttpServer(config.http.host, config.http.port)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        worker = _start_worker(stack, config, uri)
        app = create_app(
            Retriever(worker.index, load_embedder(config)),
            status=worker.status,
            ready=worker.ready,
            telemetry=worker.telemetry,
            api_key=config.http.api_key,
            failed=worker.index.failed,
            verify=lambda *, deep, repair: verify_worker(
                worker, deep=deep, repair=repair
            ).model_dump(mode="json"),
        )
        server.start(app)
        running = RunFile(config.local.data_dir, http=server.url, mongo=redacted(uri))
        stack.enter_context(running)
        _run(worker, stop, lambda: on_ready({"event": "ready", **running.facts}))


def sync(config: Configuration, *, on_ready: OnReady) -> None:
    """The flow alone, until a signal."""
    stop = stop_on_signals()
    _need_server(config, "sync")
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(mongo_of(config))
        worker = _start_worker(stack, config, uri)
        _run(worker, stop, lambda: on_ready({"event": "ready", "pid": os.getpid()}))


def serve(config: Configuration, *, on_ready: OnReady) -> None:
    """The retriever alone, until a signal."""
    stop = stop_on_signals()
    _need_server(config, "serve")
    with contextlib.ExitStack() as stack:
        server = HttpServer(config.http.host, config.http.port)
        stack.callback(server.stop)
        index = open_index(config)
        stack.callback(index.store.close)
        app = create_app(
            Retriever(index, load_embedder(config)),
            status=lambda: {"state": "serving", **describe(index)},
            ready=lambda: _can_serve(index),
            telemetry=Telemetry(),
            api_key=config.http.api_key,
            failed=index.failed,
            verify=None,
        )
        server.start(app)
        on_ready({"event": "ready", "http": server.url, "pid": os.getpid()})
        stop.wait()


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


def _need_server(config: Configuration, command: str) -> None:
    if not config.qdrant.url:
        raise Misconfigured(
            f"`syncline {command}` needs a Qdrant server, which several processes can open",
            "set qdrant.url, or use `syncline up` for the embedded one",
        )


def _start_worker(stack: contextlib.ExitStack, config: Configuration, uri: str) -> Worker:
    index = open_index(config)
    stack.callback(index.store.close)
    worker = Worker(config, uri, index, load_embedder(config))
    worker.start()
    stack.callback(_stop_worker, worker)
    return worker


def _stop_worker(worker: Worker) -> None:
    worker.control.request_stop()
    worker.join(STOP_SECONDS)


def _run(worker: Worker, stop: threading.Event, announce: Callable[[], None]) -> None:
    while worker.alive and not stop.is_set() and not worker.ready()[0]:
        stop.wait(_POLL_SECONDS)
    if worker.alive and not stop.is_set():
        announce()
    while worker.alive and not stop.is_set():
        stop.wait(_POLL_SECONDS)
    if worker.control.error is not None:
        raise worker.control.error
    if not stop.is_set():
        raise SynclineError("the flow ended by itself, which is a defect; its log says more")


def _can_serve(index: Index) -> tuple[bool, Mapping[str, str]]:
    try:
        found = index.recipe() is not None
    except Unavailable as error:
        return False, {error.service: error.reason}
    return found, {} if found else {"index": "it has not been built yet"}
