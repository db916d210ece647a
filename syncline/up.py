"""`syncline up`: local parts (where no URL is set), flow and retriever in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from retriever.app import create_app
from syncline.lifecycle import (
    OnReady,
    mongo_of,
    redacted,
    run_until_stopped,
    stop_on_signals,
)
from syncline.runtime import RunFile
from syncline.server import HttpServer
from syncline.services import start_indexes
from syncline.settings import Configuration
from syncline.verification import verify_worker


def up(config: Configuration, *, on_ready: OnReady, reload: Callable[[], Configuration]) -> None:
    """Local parts (where no URL is set), flow and retriever in one process, until a signal.

    `reload` reads the settings again, for `syncline reindex`. Raises what ended the flow, if it was
    not a signal.
    """
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        server = HttpServer(config.http.host, config.http.port)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        indexes = start_indexes(stack, config, uri, reload)

        def verify(*, deep: bool, repair: bool) -> dict[str, Any]:
            with indexes.pinned() as serving:
                report = verify_worker(serving.worker, deep=deep, repair=repair)
            return report.model_dump(mode="json")

        app = create_app(
            indexes.serving,
            status=indexes.status,
            ready=indexes.ready,
            telemetry=indexes.telemetry,
            api_key=config.http.api_key,
            failed=indexes.serving.failed,
            verify=verify,
            reindex=indexes.reindex,
        )
        server.start(app)
        running = RunFile(config.local.data_dir, http=server.url, mongo=redacted(uri))
        stack.enter_context(running)
        run_until_stopped(indexes, stop, lambda: on_ready({"event": "ready", **running.facts}))
