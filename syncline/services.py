"""The processes of a distributed Syncline: `sync`, `capture`, `index` and `serve`.

Each runs until a signal, and finds its services by URL.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import Any

from connectors.index import Index
from retriever.app import create_app
from retriever.search import Retriever
from syncline.assemble import describe, load_embedder, open_index
from syncline.errors import Unavailable
from syncline.lifecycle import (
    OnReady,
    RunningFlow,
    mongo_of,
    need_broker,
    need_server,
    run_until_stopped,
    stop_flow,
    stop_on_signals,
)
from syncline.probes import create_probes
from syncline.runtime import RunFile
from syncline.schedule import Verifier
from syncline.server import HttpServer, bind
from syncline.settings import Configuration
from syncline.telemetry import Telemetry
from syncline.worker import Worker


def sync(config: Configuration, *, on_ready: OnReady) -> None:
    """The flow alone, until a signal."""
    need_server(config, "sync")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        opened = open_index(config)
        stack.callback(opened.store.close)
        worker = Worker(config, uri, opened, load_embedder(config))
        verifier = Verifier(worker, ready=worker.ready)
        _run_probed(stack, config, server, worker, stop, on_ready, verifier=verifier)


def serve(config: Configuration, *, on_ready: OnReady) -> None:
    """The retriever alone, until a signal."""
    need_server(config, "serve")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
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


def capture(config: Configuration, *, on_ready: OnReady, snapshot: bool = False) -> None:
    """MongoDB's changes into the topic, until a signal; with `snapshot`, all documents first."""
    from syncline.capture import CaptureWorker

    need_broker(config, "capture")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        _run_probed(
            stack, config, server, CaptureWorker(config, uri, snapshot=snapshot), stop, on_ready
        )


def index(config: Configuration, *, on_ready: OnReady) -> None:
    """The topic's changes into the index, as one of as many replicas as wanted, until a signal."""
    from syncline.indexing import IndexWorker

    need_broker(config, "index")
    need_server(config, "index")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        opened = open_index(config)
        stack.callback(opened.store.close)
        uri = config.mongo.uri.get_secret_value()
        worker = IndexWorker(config, uri, opened, load_embedder(config))
        verifier = Verifier(
            worker, ready=worker.ready, is_mine=lambda: worker.reads_first_partition
        )
        _run_probed(stack, config, server, worker, stop, on_ready, verifier=verifier)


def start_worker(stack: contextlib.ExitStack, config: Configuration, uri: str) -> Worker:
    """The direct flow, started; the stack ends it."""
    index = open_index(config)
    stack.callback(index.store.close)
    worker = Worker(config, uri, index, load_embedder(config))
    worker.start()
    stack.callback(stop_flow, worker)
    return worker


def _run_probed(
    stack: contextlib.ExitStack,
    config: Configuration,
    server: HttpServer,
    worker: RunningFlow,
    stop: threading.Event,
    on_ready: OnReady,
    *,
    verifier: Verifier | None = None,
) -> None:
    """A flow with its probes, which tell from the start what it waits for."""

    def status() -> Mapping[str, Any]:
        facts = worker.status()
        return facts if verifier is None else {**facts, "verify": verifier.facts()}

    app = create_probes(
        status=status,
        ready=worker.ready,
        telemetry=worker.telemetry,
        api_key=config.http.api_key,
    )
    server.start(app)
    running = RunFile(config.local.data_dir, http=server.url, mongo="")
    facts = {key: running.facts[key] for key in ("http", "pid")}
    # Around the flow: a file that is left tells of a flow that did not end in order.
    stack.enter_context(running)
    worker.start()
    stack.callback(stop_flow, worker)
    if verifier is not None:
        stack.enter_context(verifier)
    run_until_stopped(worker, stop, lambda: on_ready({"event": "ready", **facts}))


def _can_serve(index: Index) -> tuple[bool, Mapping[str, str]]:
    try:
        found = index.recipe() is not None
    except Unavailable as error:
        return False, {error.service: error.reason}
    return found, {} if found else {"index": "it has not been built yet"}
