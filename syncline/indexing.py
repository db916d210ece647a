"""One running index flow: a thread that waits for the services, runs the flow and ends it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

import pulsar
import structlog

from connectors.index import Index
from connectors.mongo_lookup import MongoLookup
from connectors.mongo_reader import MongoReader
from connectors.pulsar import connect
from connectors.pulsar_admin import Backlog
from connectors.pulsar_consumers import PulsarConsumers, Turns
from connectors.pulsar_source import PulsarSource
from flows.apply import Applier
from flows.index import AcknowledgePlaces, build_flow
from flows.steps import Steps
from flows.sync import run_flow
from models.embedders import Embedder
from syncline.assemble import (
    NOTHING_HELD,
    connect_mongo,
    describe,
    make_chunker,
    make_recipe,
    make_scope,
    mapping_fingerprint,
    preparation,
)
from syncline.capture import find_partitions
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped, Unavailable
from syncline.retry import keep_trying
from syncline.settings import Configuration
from syncline.telemetry import Telemetry
from syncline.worker import lag_seconds
from transforms.map import check_rule

_log = structlog.get_logger(__name__)

MAPPING_CHANGED = (
    "the mapping is not the one that the index was built with, and this flow does not read again "
    "what it has indexed: run `syncline verify --repair` with the new mapping, which mends what "
    "differs and ends this warning"
)
LOOK_SECONDS = 5.0
"""Between two looks at a MongoDB that is away; one look gives up sooner."""


class IndexWorker:
    """Runs the flow from the configured topic into `index` in a thread of its own.

    `uri` is that of the MongoDB from which documents are read that are too large for a message;
    if it is empty, they fail. Errors end up in `control.error`. A stop lets the flow finish what
    it is writing and acknowledge it.
    """

    def __init__(
        self,
        config: Configuration,
        uri: str,
        index: Index,
        embedder: Embedder,
        *,
        turns: Turns | None = None,
    ) -> None:
        for name, rule in config.mapping.items():
            check_rule(name, rule)
        self.config = config
        self.index = index
        self.embedder = embedder
        self.chunker = make_chunker(config, embedder)
        self.control = Control()
        self.telemetry = Telemetry()
        self.scope = make_scope(config)
        self.steps = Steps(config.rule, self.chunker, index, self.control)
        self._mongo = connect_mongo(uri) if uri else None
        self._turns = turns
        self._consumers: PulsarConsumers | None = None
        self._backlog: Backlog | None = None
        self._thread = threading.Thread(target=self._run, name="syncline-index", daemon=True)
        self._look = threading.Thread(target=self._look_at_mongo, name="syncline-look", daemon=True)

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

    @property
    def reads_first_partition(self) -> bool:
        """Whether this replica has the partition that exactly one replica has at a time."""
        return self._consumers is not None and 0 in self._consumers.active

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
        """What a comparison, or a reference in a message, reads documents with."""
        if self._mongo is None:
            raise Misconfigured("the index flow knows no database to read", "set mongo.uri")
        return MongoReader(self._mongo, self.scope)

    def _run(self) -> None:
        self._look.start()
        try:
            # Looks at the credentials too: the client takes a refused token for an outage.
            topics = keep_trying(lambda: find_partitions(self.config.pulsar), self.control)
            recipe = make_recipe(self.embedder, self.chunker)
            keep_trying(lambda: self.index.open(recipe), self.control)
            keep_trying(lambda: self.index.feed_from_topic(len(topics)), self.control)
            keep_trying(self._look_at_mapping, self.control)
            self._backlog = self._make_backlog(topics)
            self._flow(topics)
        except Stopped:
            pass
        except BaseException as error:  # handed to the entry point, which raises it
            self.control.fail(error)
        finally:
            self.control.request_stop()
            if self._mongo is not None:
                self._look.join(LOOK_SECONDS)
                self._mongo.close()
            backlog, self._backlog = self._backlog, None
            if backlog is not None:
                backlog.close()

    def _look_at_mapping(self) -> None:
        """What stands in the topic is mapped as it comes; what came before cannot be read again."""
        self.index.put_rules(mapping_fingerprint(self.config), unless_known=True)
        if self._mapping_changed():
            _log.warning("mapping_changed", remedy=MAPPING_CHANGED)

    def _mapping_changed(self) -> bool:
        return self.index.rules() not in (None, mapping_fingerprint(self.config))

    def _look_at_mongo(self) -> None:
        """Find out early whether references can be read, beside the flow, which needs MongoDB for
        nothing else: while it is away, all other changes are indexed."""
        if self._mongo is None:
            return
        reader = MongoReader(self._mongo, self.scope)
        while not self.control.stop_requested:
            try:
                reader.cluster_time()
                return
            except Unavailable as error:
                _log.warning("references_cannot_be_read_now", reason=error.reason)
            except BaseException as error:
                self.control.fail(error)
                return
            self.control.wait_stop(LOOK_SECONDS)

    def _flow(self, topics: tuple[str, ...]) -> None:
        part = self.config.pulsar
        consumers = self._consumers = PulsarConsumers(
            self._connect,
            topics,
            part.subscription,
            self.control,
            replica=part.replica,
            replicas=part.replicas,
            turns=self._turns,
        )
        acknowledge = AcknowledgePlaces(
            self.index,
            consumers,
            self.control,
            tombstone_seconds=self.config.flow.tombstone_seconds,
        )
        source = PulsarSource(consumers, acknowledge=acknowledge, control=self.control)
        # Of which collections there are messages, capture has decided.
        anything = self.scope.model_copy(update={"collections": ()})
        reader = MongoReader(self._mongo, anything) if self._mongo is not None else None
        lookup = MongoLookup(reader, self.control)
        prepared = preparation(self.config, self.embedder, self.chunker, self.control)
        with contextlib.closing(consumers), prepared as prepare:
            flow = build_flow(
                source, lookup, self.steps, self.applier(), self.control, preparation=prepare
            )
            run_flow(flow, epoch_milliseconds=self.config.flow.epoch_milliseconds)

    def _make_backlog(self, topics: tuple[str, ...]) -> Backlog | None:
        part = self.config.pulsar
        if not part.admin_url:
            return None
        return Backlog(
            part.admin_url,
            topics,
            part.subscription,
            token=part.token.get_secret_value() or None,
            ca_file=part.tls_ca_file,
        )

    def _connect(self) -> pulsar.Client:
        part = self.config.pulsar
        return connect(
            part.url,
            token=part.token.get_secret_value() or None,
            tls_ca_file=part.tls_ca_file,
            tls_certificate_file=part.tls_certificate_file,
            tls_key_file=part.tls_key_file,
        )

    # --- what it tells --------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`."""
        held = self._held()
        control = self.control
        pending = max(0, control.pending)
        return {
            "state": control.state,
            **held,
            "embedded_total": self.telemetry.embedded_total,
            "skipped_total": self.telemetry.skipped_total,
            "pending": pending,
            "backlog": self._backlog.messages() if self._backlog else None,
            "lag_seconds": lag_seconds(held["watermark"], settled=False),
            "waiting_for": dict(control.waiting),
        }

    def _held(self) -> Mapping[str, Any]:
        """What the index holds; nothing while it does not answer or has not been opened."""
        try:
            warnings = [MAPPING_CHANGED] if self._mapping_changed() else []
            held = {**describe(self.index), "partitions": self._partitions()}
            return {**held, "warnings": warnings}
        except (Unavailable, Misconfigured):
            if not self.control.waiting and self.control.state != "starting":
                raise
        return {**NOTHING_HELD, "partitions": [], "warnings": []}

    def _partitions(self) -> list[Mapping[str, Any]]:
        """Of each partition, how far the index is, and whether it is this process that reads it."""
        consumers = self._consumers
        if consumers is None:
            return []
        active = set(consumers.active)
        marks = self.index.marks()
        return [
            {
                "partition": k,
                "active": k in active,
                "watermark": str(marks[k].watermark) if k in marks and marks[k].watermark else None,
            }
            for k in range(len(consumers.topics))
        ]

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether changes flow, and if not, what is waited for."""
        waiting = dict(self.control.waiting)
        if self.control.error is not None:
            waiting["flow"] = str(self.control.error)
        elif self.control.state == "starting":
            waiting.setdefault("flow", "starting")
        return not waiting, waiting
