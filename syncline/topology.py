"""`syncline up --with-pulsar`: the distributed topology on one machine, as separate processes.

This process owns what only one can own: Qdrant Edge (shared over a Unix socket), and the local
database and broker where no URL is set. It serves queries, and keeps one `capture` and as many
`index` processes alive as are asked for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from connectors.index import Index
from retriever.app import create_app
from retriever.search import Retriever
from syncline.assemble import describe, load_embedder, open_index
from syncline.child import Child
from syncline.children import Children, Kept
from syncline.errors import Unavailable
from syncline.lifecycle import OnReady, mongo_of, redacted, stop_on_signals
from syncline.local.broker import Broker
from syncline.runtime import RunFile
from syncline.schedule import Verifier
from syncline.server import bind
from syncline.settings import Configuration
from syncline.sharing import shared
from syncline.space import check_space
from syncline.worker import Worker, lag_seconds

_POLL_SECONDS = 0.05
_TOTALS = ("embedded_total", "skipped_total")


def up_with_pulsar(
    config: Configuration, *, replicas: int, config_file: Path | None, on_ready: OnReady
) -> None:
    """Run it all until a signal; the other processes read `config_file` too.

    Raises what ended it, if it was not a signal.
    """
    stop = stop_on_signals()
    check = partial(check_space, config.local.data_dir, config.local.min_free_mb)
    check()
    with contextlib.ExitStack() as stack:
        server = bind(config.http)
        stack.callback(server.stop)
        uri = stack.enter_context(mongo_of(config))
        # Entered before the flows, so that it ends after them: they acknowledge to it at a stop.
        brokers = stack.enter_context(Children(_brokers(config)))
        index = open_index(config)
        stack.callback(index.store.close)
        store = config.qdrant.url or stack.enter_context(shared(index.store, config.local.data_dir))
        environment = {
            "SYNCLINE_MONGO_URI": uri,
            "SYNCLINE_MONGO_ON_LOST_HISTORY": config.mongo.on_lost_history,
            "SYNCLINE_PULSAR_URL": config.pulsar.url or brokers.all[0].url,
            "SYNCLINE_PULSAR_PLAIN_TOPICS": str(config.pulsar.plain_topics or bool(brokers.all)),
            "SYNCLINE_QDRANT_URL": store,
            "SYNCLINE_HTTP_PORT": "0",
            "SYNCLINE_HTTP_HOST": "127.0.0.1",
            # This process compares, and tells of it.
            "SYNCLINE_VERIFY_EVERY_SECONDS": "0",
            # Threads that wait for each other by spinning take the cores from those that embed in
            # the next process: two at once became ten times slower.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if config_file is not None:
            environment["SYNCLINE_CONFIG"] = str(config_file.resolve())
        worker = Worker(config, uri, index, load_embedder(config))
        stack.callback(worker.client.close)
        flows = stack.enter_context(
            Children(
                _flows(config, environment, replicas, index),
                on_death=partial(_forget, brokers.all),
            )
        )
        whole = Topology(worker, brokers, flows)
        verifier = stack.enter_context(
            Verifier(
                worker,
                config.verify,
                lambda: contextlib.nullcontext(worker),
                ready=whole.ready,
                fed_by_others=True,
            )
        )
        app = create_app(
            Retriever(index, worker.embedder),
            status=lambda: {**whole.status(), "verify": verifier.facts()},
            ready=whole.ready,
            telemetry=worker.telemetry,
            api_key=config.http.api_key,
            failed=index.failed,
            verify=verifier,
        )
        server.start(app)
        running = RunFile(config.local.data_dir, http=server.url, mongo=redacted(uri))
        stack.enter_context(running)
        stack.callback(worker.control.request_stop)
        whole.run(stop, lambda: on_ready({"event": "ready", **running.facts}), check=check)


class Topology:
    """All processes, seen as one: what `/v1/status` and `/readyz` tell of them."""

    def __init__(self, worker: Worker, brokers: Children[Broker], flows: Children[Child]) -> None:
        self._worker = worker
        self._brokers = brokers
        self._flows = flows

    def run(self, stop: threading.Event, announce: Any, *, check: Callable[[], None]) -> None:
        """Announce once all are ready, and wait for a signal. Raises if one cannot run, or what
        `check` raises."""
        announced = False
        while not stop.wait(_POLL_SECONDS):
            check()
            if (error := self._brokers.error or self._flows.error) is not None:
                raise error
            if not announced and self.ready()[0]:
                announce()
                announced = True

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether every process is ready, and if not, what each waits for."""
        waiting: dict[str, str] = {}
        for name, status in self._statuses().items():
            if not status:
                waiting[name] = "starting"
            waiting |= {f"{name}: {k}": v for k, v in status.get("waiting_for", {}).items()}
        return not waiting, waiting

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`: sums over the processes, and each by itself."""
        statuses = self._statuses()
        held = describe(self._worker.index)
        totals = dict.fromkeys(_TOTALS, 0)
        for child in self._flows.all:
            for name, value in child.totals(statuses[child.name], _TOTALS).items():
                totals[name] += value
        pending = sum(status.get("pending", 0) for status in statuses.values())
        state = _state(statuses)
        return {
            "state": state,
            **held,
            **totals,
            "pending": pending,
            "backlog": next((s["backlog"] for s in statuses.values() if "backlog" in s), None),
            "lag_seconds": lag_seconds(
                held["watermark"], settled=pending == 0 and state == "streaming"
            ),
            "waiting_for": self.ready()[1],
            "backfill": statuses["capture"].get("backfill", {}),
            "warnings": sorted({w for s in statuses.values() for w in s.get("warnings", ())}),
            "processes": statuses,
        }

    def _statuses(self) -> dict[str, Mapping[str, Any]]:
        kept: list[Kept] = [*self._brokers.all, *self._flows.all]
        return {process.name: process.status() for process in kept}


def _state(statuses: Mapping[str, Mapping[str, Any]]) -> str:
    """The state of the process that is furthest from simply following the database."""
    found = {status.get("state", "starting") for status in statuses.values()}
    order = ("starting", "waiting", "stopping", "stopped", "backfilling")
    return next((state for state in order if state in found), "streaming")


def _flows(
    config: Configuration, environment: Mapping[str, str], replicas: int, index: Index
) -> list[Child]:
    def child(name: str, command: Callable[[], Sequence[str]], **place: str) -> Child:
        return Child(
            name,
            command,
            {**environment, **place},
            config.local.data_dir / "processes" / name,
            api_key=config.http.api_key.get_secret_value(),
        )

    return [
        child("capture", lambda: ["capture", *(["--snapshot"] if _is_new(index) else [])]),
        *(
            child(
                f"index-{n}",
                lambda: ["index"],
                SYNCLINE_PULSAR_REPLICA=str(n),
                SYNCLINE_PULSAR_REPLICAS=str(replicas),
            )
            for n in range(replicas)
        ),
    ]


def _is_new(index: Index) -> bool:
    """Whether no topic feeds the index yet: what an older subscription has let go is not in it."""
    try:
        return not (index.store.exists() and index.marks())
    except Unavailable:
        return False


def _brokers(config: Configuration) -> list[Broker]:
    return [] if config.pulsar.url else [Broker(config.local.data_dir / "pulsar")]


def _forget(brokers: Sequence[Broker]) -> None:
    for broker in brokers:
        broker.forget_the_dead()
