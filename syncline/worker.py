"""One running direct flow: a thread that waits for the services, runs the flow and ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from connectors.index import Index
from connectors.mongo import check
from connectors.mongo_reader import MongoReader
from connectors.mongo_source import MongoSource
from flows.acknowledge import Acknowledge
from flows.apply import Applier
from flows.steps import Steps
from flows.sync import build_flow, run_flow
from models.embedders import Embedder
from syncline.assemble import (
    NOTHING_HELD,
    connect_mongo,
    describe,
    make_chunker,
    make_recipe,
    make_scope,
    preparation,
    scope_fingerprint,
)
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped, Unavailable
from syncline.retry import keep_trying
from syncline.settings import Configuration
from syncline.telemetry import Telemetry
from transforms.map import check_rule

if TYPE_CHECKING:
    from pymongo import MongoClient


class Worker:
    """Runs the flow from `uri` into `index` in a thread of its own.

    Errors end up in `control.error`. `stop()` lets the flow finish what it is writing and
    acknowledge it.
    """

    def __init__(
        self,
        config: Configuration,
        uri: str,
        index: Index,
        embedder: Embedder,
        *,
        telemetry: Telemetry | None = None,
    ) -> None:
        for name, rule in config.mapping.items():
            check_rule(name, rule)
        self.config = config
        self.index = index
        self.embedder = embedder
        self.chunker = make_chunker(config, embedder)
        self.control = Control()
        self.telemetry = telemetry or Telemetry()
        self.client: MongoClient[dict[str, Any]] = connect_mongo(uri)
        self.scope = make_scope(config)
        self.steps = Steps(config.rule, self.chunker, index, self.control)
        self._thread = threading.Thread(target=self._run, name="syncline-flow", daemon=True)

    def start(self) -> None:
        """Start the thread; what can be wrong shows in `control`."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the flow to end; False if it has not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the flow's thread runs."""
        return self._thread.is_alive()

    def applier(self) -> Applier:
        """An apply step over this index; repair uses one beside the flow's own."""
        return Applier(
            self.index,
            self.embedder,
            self.steps.prepare,
            control=self.control,
            telemetry=self.telemetry,
        )

    def reader(self) -> MongoReader:
        """What a comparison reads documents with."""
        return MongoReader(self.client, self.scope)

    def _run(self) -> None:
        try:
            keep_trying(lambda: check(self.client, self.scope), self.control)
            load = self.config.embedder.model
            recipe = make_recipe(self.embedder, self.chunker, load=load)
            keep_trying(lambda: self.index.open(recipe), self.control)
            keep_trying(self.index.feed_directly, self.control)
            keep_trying(self.index.forget_rules, self.control)
            with preparation(self.config, self.embedder, self.chunker, self.control) as prepare:
                flow = build_flow(
                    self._source(), self.steps, self.applier(), self.control, preparation=prepare
                )
                run_flow(flow, epoch_milliseconds=self.config.flow.epoch_milliseconds)
        except Stopped:
            pass
        except BaseException as error:  # handed to the entry point, which raises it
            self.control.fail(error)
        finally:
            self.client.close()

    def _source(self) -> MongoSource:
        return MongoSource(
            self.client,
            self.scope,
            load_position=self.index.resumable_position,
            acknowledge=Acknowledge(
                self.index,
                self.control,
                tombstone_seconds=self.config.flow.tombstone_seconds,
            ),
            scope_fingerprint=scope_fingerprint(self.config),
            control=self.control,
            on_lost_history=self.config.mongo.on_lost_history,
            rebase=self.index.rebase,
        )

    # --- what it tells --------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`."""
        held = self._held()
        control = self.control
        pending = max(0, control.received - control.acknowledged)
        return {
            "state": control.state,
            **held,
            "embedded_total": self.telemetry.embedded_total,
            "skipped_total": self.telemetry.skipped_total,
            "pending": pending,
            "lag_seconds": lag_seconds(
                held["watermark"], settled=pending == 0 and control.state == "streaming"
            ),
            "waiting_for": dict(control.waiting),
            "backfill": {
                name: {"done": done, "of": total}
                for name, (done, total) in control.backfill.items()
            },
        }

    def _held(self) -> Mapping[str, Any]:
        """What the index holds; nothing while it does not answer or has not been opened."""
        try:
            return describe(self.index)
        except (Unavailable, Misconfigured):
            if not self.control.waiting and self.control.state != "starting":
                raise
        return NOTHING_HELD

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether changes flow, and if not, what is waited for."""
        waiting = dict(self.control.waiting)
        if self.control.error is not None:
            waiting["flow"] = str(self.control.error)
        elif self.control.state == "starting":
            waiting.setdefault("flow", "starting")
        return not waiting, waiting


def lag_seconds(watermark: str | None, *, settled: bool) -> float | None:
    """How far a watermark is behind now; 0 where nothing is on its way, None before the first."""
    if watermark is None:
        return None
    if settled:
        return 0.0
    return round(max(0.0, time.time() - int(watermark.split(".")[0])), 3)
