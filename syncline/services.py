"""The processes of a distributed Syncline: `sync`, `capture`, `index` and `serve`.

Each runs until a signal, and finds its services by URL.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

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
from syncline.schedule import Verifier
from syncline.server import HttpServer, bind
from syncline.settings import Configuration
from syncline.telemetry import Telemetry


def sync(config: Configuration, *, on_ready: OnReady) -> None:
    """The flow alone, until a signal."""
    need_server(config, "sync")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        indexes = Indexes(config, uri, open_alias(config))
        verifier = Verifier(indexes, config.verify, indexes.pinned, ready=indexes.is_settled)
        _run_probed(stack, config, server, indexes, stop, on_ready, verifier=verifier)


def serve(config: Configuration, *, on_ready: OnReady) -> None:
    """The retriever alone, until a signal."""
    need_server(config, "serve")
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
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
            worker,
            config.verify,
            lambda: contextlib.nullcontext(worker),
            ready=worker.ready,
            is_mine=lambda: worker.reads_first_partition,
        )
        _run_probed(stack, config, server, worker, stop, on_ready, verifier=verifier)


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
