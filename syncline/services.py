"""The processes of a distributed Syncline: `sync`, `capture`, `index` and `serve`.

Each runs until a signal, and finds its services by URL.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from retriever.app import create_app
from syncline.alias_follower import POLL_SECONDS, AliasFollower
from syncline.assemble import load_embedder, open_alias, open_index
from syncline.indexes import Indexes
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
from syncline.server import HttpServer
from syncline.settings import Configuration
from syncline.telemetry import Telemetry


def sync(config: Configuration, *, on_ready: OnReady) -> None:
    """The flow alone, until a signal."""
    need_server(config, "sync")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(mongo_of(config))
        indexes = start_indexes(stack, config, uri)
        run_until_stopped(indexes, stop, lambda: on_ready({"event": "ready", "pid": os.getpid()}))


def serve(config: Configuration, *, on_ready: OnReady) -> None:
    """The retriever alone, until a signal."""
    need_server(config, "serve")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = HttpServer(config.http.host, config.http.port)
        stack.callback(server.stop)
        follower = AliasFollower(config, open_alias(config))
        app = create_app(
            follower.serving,
            status=follower.status,
            ready=follower.ready,
            telemetry=Telemetry(),
            api_key=config.http.api_key,
            failed=follower.serving.failed,
            verify=None,
        )
        follower.start()
        stack.callback(follower.stop)
        server.start(app)
        on_ready({"event": "ready", "http": server.url, "pid": os.getpid()})
        while not stop.wait(POLL_SECONDS):
            follower.check()


def capture(config: Configuration, *, on_ready: OnReady) -> None:
    """MongoDB's changes into the topic, until a signal."""
    from syncline.capture import CaptureWorker

    need_broker(config, "capture")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = HttpServer(config.http.host, config.http.port)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        _run_probed(stack, config, server, CaptureWorker(config, uri), stop, on_ready)


def index(config: Configuration, *, on_ready: OnReady) -> None:
    """The topic's changes into the index, as one of as many replicas as wanted, until a signal."""
    from syncline.indexing import IndexWorker

    need_broker(config, "index")
    need_server(config, "index")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = HttpServer(config.http.host, config.http.port)
        stack.callback(server.stop)
        opened = open_index(config)
        stack.callback(opened.store.close)
        uri = config.mongo.uri.get_secret_value()
        worker = IndexWorker(config, uri, opened, load_embedder(config))
        _run_probed(stack, config, server, worker, stop, on_ready)


def start_indexes(
    stack: contextlib.ExitStack,
    config: Configuration,
    uri: str,
    reload: Callable[[], Configuration] | None = None,
) -> Indexes:
    """The direct flow with its indexes, started; the stack ends it."""
    indexes = Indexes(config, uri, open_alias(config), reload=reload)
    indexes.start()
    stack.callback(stop_flow, indexes)
    return indexes


def _run_probed(
    stack: contextlib.ExitStack,
    config: Configuration,
    server: HttpServer,
    worker: RunningFlow,
    stop: threading.Event,
    on_ready: OnReady,
) -> None:
    """A flow with its probes, which tell from the start what it waits for."""
    app = create_probes(
        status=worker.status,
        ready=worker.ready,
        telemetry=worker.telemetry,
        api_key=config.http.api_key,
    )
    server.start(app)
    worker.start()
    stack.callback(stop_flow, worker)
    running = RunFile(config.local.data_dir, http=server.url, mongo="")
    facts = {key: running.facts[key] for key in ("http", "pid")}
    stack.enter_context(running)
    run_until_stopped(worker, stop, lambda: on_ready({"event": "ready", **facts}))
