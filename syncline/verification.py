"""`verify` wherever the index is: through the running process, or opened here.

Qdrant Edge opens in one process only, so the process that runs on the data directory does it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from connectors.index import Index
from connectors.mongo_reader import DocumentReader
from flows.apply import Applier
from flows.steps import Steps
from flows.verify import Progress, VerifyReport, verify
from retriever.comparing import report
from syncline import show
from syncline.assemble import load_embedder, mapping_fingerprint, open_index
from syncline.client import Client, connect
from syncline.control import Control
from syncline.errors import Misconfigured, SynclineError
from syncline.runtime import claim, find_running
from syncline.settings import Configuration
from syncline.telemetry import Telemetry
from syncline.worker import Worker

SETTLE_SECONDS = 5.0
"""How long a running flow may take to catch up with a write before that counts as drift."""
PATIENT_SECONDS = 60.0
"""The same where nobody waits for the answer: a burst of writes must not look like drift."""
SHARE = 0.25
"""Of its time that a comparison beside the flow works at most; the rest is the flow's."""
POLL_SECONDS = 0.25
"""Between two looks at how far it is: a bar that moves four times a second moves."""


def verify_anywhere(config: Configuration, *, url: str | None, **options: bool) -> dict[str, Any]:
    """The report, as JSON values, of the running Syncline or of the stopped index.

    `options` are `deep`, `repair` and `forget`.
    """
    if url or _can_verify(find_running(config.local.data_dir)):
        with connect(config, url) as client, _bar() as progress, following(client, progress):
            return client.verify(**options)
    if not config.qdrant.url and not (config.local.data_dir / "index").exists():
        raise Misconfigured(
            f"there is no index in {config.local.data_dir}",
            "name the right --data-dir, or run `syncline up` first",
            code="index_missing",
        )
    with _stopped(config) as worker, _bar() as progress:
        report = verify_worker(worker, progress=progress, **options)
        return report.model_dump(mode="json")


class Comparable(Protocol):
    """A worker, as far as a comparison needs it: of the direct flow, or of the index flow.

    `reader` raises `Misconfigured` where no database is known to compare with.
    """

    config: Configuration
    index: Index
    steps: Steps
    control: Control
    telemetry: Telemetry

    @property
    def alive(self) -> bool: ...

    def applier(self) -> Applier: ...

    def reader(self) -> DocumentReader: ...


class Pace:
    """A stop to wait on that also holds work back: between two calls is work, and each call waits
    until it was at most `share` of the time."""

    def __init__(self, stop: Callable[[float], bool], share: float) -> None:
        self._stop = stop
        self._rest = 1 / share - 1
        self._resumed = time.monotonic()

    def __call__(self, seconds: float) -> bool:
        """Wait `seconds`, or as long as the work calls for, or until a stop; whether it was."""
        worked = time.monotonic() - self._resumed
        is_stopped = self._stop(max(seconds, worked * self._rest))
        self._resumed = time.monotonic()
        return is_stopped


def verify_worker(
    worker: Comparable,
    *,
    deep: bool,
    repair: bool,
    forget: bool = False,
    progress: Progress = report,
    gently: bool = False,
    fed_by_others: bool = False,
) -> VerifyReport:
    """Compare a worker's database and index, whether its flow or another one runs or none.

    Progress goes to the request that is being answered, if nothing else is said. `gently`: in no
    hurry, and out of the flow's way.
    """
    flowing = worker.alive or fed_by_others or bool(worker.config.qdrant.url)
    patience = PATIENT_SECONDS if gently else SETTLE_SECONDS
    stop = worker.control.wait_stop
    found = verify(
        worker.index,
        worker.reader(),
        worker.steps,
        deep=deep,
        repair=worker.applier().apply if repair else None,
        forget=forget,
        progress=progress,
        settle_seconds=patience if flowing else 0,
        stop=Pace(stop, SHARE) if gently else stop,
    )
    if found.in_sync and worker.index.rules() is not None:
        worker.index.put_rules(mapping_fingerprint(worker.config))
    return found


def _can_verify(running: dict[str, Any] | None) -> bool:
    """Whether it compares on request: a process that only runs a flow names no database."""
    return running is not None and bool(running["mongo"])


@contextlib.contextmanager
def following(client: Client, progress: Progress) -> Iterator[None]:
    """Meanwhile, tell how far the comparison of a running Syncline has come."""
    over = threading.Event()

    def follow() -> None:
        # What is wrong, the request that waits for the report tells as well.
        with contextlib.suppress(SynclineError):
            while not over.wait(POLL_SECONDS):
                facts = client.verifying()
                if "compared" in facts:
                    progress(facts["done"], facts["of"], facts["compared"])

    thread = threading.Thread(target=follow, name="syncline-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    """A bar a pass on stderr, while it is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=show.err, transient=True, disable=not show.err.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(done: int, total: int, what: str) -> None:
            if what not in tasks:
                for finished in tasks.values():  # its last step may not have been told
                    bar.update(finished, completed=bar.tasks[finished].total)
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=max(done, total))

        yield tell


@contextlib.contextmanager
def _stopped(config: Configuration) -> Iterator[Worker]:
    from connectors.mongo import check
    from syncline.assemble import make_recipe
    from syncline.lifecycle import mongo_of

    with contextlib.ExitStack() as stack:
        if not (config.mongo.uri.get_secret_value() and config.qdrant.url):
            stack.enter_context(claim(config.local.data_dir))
        uri = stack.enter_context(mongo_of(config))
        index = open_index(config)
        stack.callback(index.store.close)
        worker = Worker(config, uri, index, load_embedder(config))
        check(worker.client, worker.scope)
        if not index.store.exists():
            raise Misconfigured(
                f"there is no index {config.qdrant.collection!r} to compare with",
                "name the right qdrant.collection, or build it: `syncline up` or `syncline sync`",
                code="index_missing",
            )
        index.open(make_recipe(worker.embedder, worker.chunker))
        yield worker
