"""`syncline up`: local parts (where no URL is set), flow and retriever in one process."""

from __future__ import annotations

import contextlib
from functools import partial

from retriever.app import create_app
from retriever.search import Retriever
from syncline.assemble import load_embedder
from syncline.lifecycle import (
    OnReady,
    mongo_of,
    redacted,
    run_until_stopped,
    stop_on_signals,
)
from syncline.runtime import RunFile
from syncline.schedule import Verifier
from syncline.server import bind
from syncline.services import start_worker
from syncline.settings import Configuration
from syncline.space import check_space


def up(config: Configuration, *, on_ready: OnReady) -> None:
    """Local parts (where no URL is set), flow and retriever in one process, until a signal.

    Raises what ended the flow, if it was not a signal.
    """
    stop = stop_on_signals()
    check = partial(check_space, config.local.data_dir, config.local.min_free_mb)
    check()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        worker = start_worker(stack, config, uri)
        verifier = stack.enter_context(Verifier(worker, ready=worker.ready))
        app = create_app(
            Retriever(worker.index, load_embedder(config)),
            status=lambda: {**worker.status(), "verify": verifier.facts()},
            ready=worker.ready,
            telemetry=worker.telemetry,
            api_key=config.http.api_key,
            failed=worker.index.failed,
            verify=verifier,
        )
        server.start(app)
        running = RunFile(config.local.data_dir, http=server.url, mongo=redacted(uri))
        stack.enter_context(running)
        facts = {"event": "ready", **running.facts}
        run_until_stopped(worker, stop, lambda: on_ready(facts), check=check)
