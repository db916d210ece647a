"""`verify` wherever the index is: through the running process, or opened here.

Qdrant Edge opens in one process only, so the process that runs on the data directory does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from connectors.mongo_reader import MongoReader
from flows.verify import Progress, VerifyReport, verify
from syncline import show
from syncline.assemble import load_embedder, open_index
from syncline.client import connect
from syncline.errors import Misconfigured
from syncline.runtime import find_running
from syncline.settings import Configuration
from syncline.worker import Worker

SETTLE_SECONDS = 5.0
"""How long a running flow may take to catch up with a write before that counts as drift."""


def verify_anywhere(
    config: Configuration, *, url: str | None, deep: bool, repair: bool
) -> dict[str, Any]:
    """The report, as JSON values, of the running Syncline or of the stopped index."""
    if url or find_running(config.local.data_dir):
        with connect(config, url) as client:
            return client.verify(deep=deep, repair=repair)
    if not config.qdrant.url and not (config.local.data_dir / "index").exists():
        raise Misconfigured(
            f"there is no index in {config.local.data_dir}",
            "name the right --data-dir, or run `syncline up` first",
        )
    with _stopped(config) as worker, _bar() as progress:
        report = verify_worker(worker, deep=deep, repair=repair, progress=progress)
        return report.model_dump(mode="json")


def verify_worker(
    worker: Worker, *, deep: bool, repair: bool, progress: Progress = lambda done, total, what: None
) -> VerifyReport:
    """Compare a worker's database and index, whether its flow runs or not."""
    return verify(
        worker.index,
        MongoReader(worker.client, worker.scope),
        worker.steps,
        deep=deep,
        repair=worker.applier().apply if repair else None,
        progress=progress,
        settle_seconds=SETTLE_SECONDS if worker.alive else 0,
        stop=lambda: worker.control.stop_requested,
    )


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    """A bar a pass on stderr, while it is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=show.err, transient=True, disable=not show.err.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(done: int, total: int, what: str) -> None:
            task = tasks.get(what)
            if task is None:
                task = tasks[what] = bar.add_task(what)
            bar.update(task, completed=done, total=max(done, total))

        yield tell


@contextlib.contextmanager
def _stopped(config: Configuration) -> Iterator[Worker]:
    from connectors.mongo import check
    from syncline.assemble import make_recipe
    from syncline.up import mongo_of

    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(mongo_of(config))
        index = open_index(config)
        stack.callback(index.store.close)
        worker = Worker(config, uri, index, load_embedder(config))
        check(worker.client, worker.scope)
        index.open(make_recipe(worker.embedder, worker.chunker))
        yield worker
