"""`syncline up`: local parts (where no URL is set), flow and retriever in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from retriever.app import create_app
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
from syncline.services import start_indexes
from syncline.settings import Configuration
from syncline.space import check_space


def up(config: Configuration, *, on_ready: OnReady, reload: Callable[[], Configuration]) -> None:
    """Local parts (where no URL is set), flow and retriever in one process, until a signal.

    `reload` reads the settings again, for `syncline reindex`. Raises what ended the flow, if it was
    not a signal.
    """
    stop = stop_on_signals()
    check = partial(check_space, config.local.data_dir, config.local.min_free_mb)
    check()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        indexes = start_indexes(stack, config, uri, reload)
        verifier = Verifier(indexes, config.verify, indexes.pinned, ready=indexes.is_settled)
        stack.enter_context(verifier)
        app = create_app(
            indexes.serving,
            status=lambda: {**indexes.status(), "verify": verifier.facts()},
            ready=indexes.ready,
            telemetry=indexes.telemetry,
            api_key=config.http.api_key,
            failed=indexes.serving.failed,
            verify=verifier,
            reindex=indexes.reindex,
        )
        server.start(app)
        running = RunFile(config.local.data_dir, http=server.url, mongo=redacted(uri))
        stack.enter_context(running)
        facts = {"event": "ready", **running.facts}
        run_until_stopped(indexes, stop, lambda: on_ready(facts), check=check)
