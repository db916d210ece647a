"""One running capture flow: a thread that waits for the services, runs the flow and ends it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from connectors.mongo import check
from connectors.mongo_source import MongoSource
from connectors.pulsar import connect, disconnect, partition_topics
from connectors.pulsar_check import Credentials
from connectors.pulsar_check import check as check_broker
from connectors.pulsar_position import PositionTopic
from connectors.pulsar_publisher import Publisher
from flows.capture import PublishedPosition, build_flow
from flows.sync import run_flow
from syncline.assemble import connect_mongo, make_scope, scope_fingerprint
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped
from syncline.retry import keep_trying
from syncline.settings import Configuration, PulsarSettings
from syncline.telemetry import Telemetry
from syncline.worker import lag_seconds
from transforms.map import check_rule

if TYPE_CHECKING:
    import pulsar
    from pymongo import MongoClient


class CaptureWorker:
    """Runs the flow from `uri` to `pulsar.topic` in a thread of its own.

    Errors end up in `control.error`. A stop asked for there lets the flow publish what it has
    read and keep its position. `snapshot`: publish every document once more first.
    """

    def __init__(self, config: Configuration, uri: str, *, snapshot: bool = False) -> None:
        if not config.pulsar.url:
            raise Misconfigured("capture needs Pulsar, and pulsar.url is empty", "set pulsar.url")
        for name, rule in config.mapping.items():
            check_rule(name, rule)
        self.config = config
        self.control = Control()
        self.telemetry = Telemetry()
        self.client: MongoClient[dict[str, Any]] = connect_mongo(uri)
        self.scope = make_scope(config)
        self._snapshot = snapshot
        self._position: PublishedPosition | None = None
        self._partitions: int | None = None
        self._thread = threading.Thread(target=self._run, name="syncline-capture", daemon=True)

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

    def _run(self) -> None:
        with ExitStack() as opened:
            opened.callback(self.client.close)
            try:
                keep_trying(lambda: check(self.client, self.scope), self.control)
                self._capture(opened)
            except Stopped:
                pass
            except BaseException as error:  # handed to the entry point, which raises it
                self.control.fail(error)

    def _capture(self, opened: ExitStack) -> None:
        settings = self.config.pulsar
        publisher = Publisher(
            lambda: connect_pulsar(settings),
            keep_trying(lambda: find_partitions(settings), self.control),
            scope=scope_fingerprint(self.config),
            telemetry=self.telemetry,
            compression=settings.compression,
            max_message_bytes=settings.max_message_bytes,
        )
        topic = PositionTopic(lambda: connect_pulsar(settings), settings.topic)
        opened.callback(topic.close)
        opened.callback(publisher.close)
        self._partitions = publisher.partitions
        self._position = PublishedPosition(publisher, topic, self.control, snapshot=self._snapshot)
        flow = build_flow(self._source(self._position), self._position, self.control)
        run_flow(flow, epoch_milliseconds=self.config.flow.epoch_milliseconds)

    def _source(self, position: PublishedPosition) -> MongoSource:
        return MongoSource(
            self.client,
            self.scope,
            load_position=position.load,
            acknowledge=position.acknowledge,
            scope_fingerprint=scope_fingerprint(self.config),
            control=self.control,
            on_lost_history=self.config.mongo.on_lost_history,
        )

    # --- what it tells --------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`."""
        control = self.control
        newest = self._position.newest if self._position else None
        watermark = str(newest.watermark) if newest and newest.watermark else None
        pending = max(0, control.pending)
        return {
            "state": control.state,
            "topic": self.config.pulsar.topic,
            "partitions": self._partitions,
            "generation": newest.generation if newest else None,
            "watermark": watermark,
            "published_total": self.telemetry.published_total,
            "pending": pending,
            "lag_seconds": lag_seconds(
                watermark, settled=pending == 0 and control.state == "streaming"
            ),
            "waiting_for": dict(control.waiting),
            "backfill": {
                name: {"done": done, "of": total}
                for name, (done, total) in control.backfill.items()
            },
        }

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether changes flow, and if not, what is waited for."""
        waiting = dict(self.control.waiting)
        if self.control.error is not None:
            waiting["flow"] = str(self.control.error)
        elif self.control.state == "starting":
            waiting.setdefault("flow", "starting")
        return not waiting, waiting


def connect_pulsar(settings: PulsarSettings) -> pulsar.Client:
    """A client for a broker that answers and lets us in.

    Raises `Unavailable` or `Misconfigured` if it does not.
    """
    credentials = Credentials(
        settings.url,
        token=settings.token.get_secret_value() or None,
        tls_ca_file=settings.tls_ca_file,
        tls_certificate_file=settings.tls_certificate_file,
        tls_key_file=settings.tls_key_file,
    )
    check_broker(credentials)
    return connect(**credentials._asdict())


def find_partitions(settings: PulsarSettings) -> tuple[str, ...]:
    """The topics that stand for the partitions. Raises `Unavailable`, `Misconfigured`."""
    client = connect_pulsar(settings)
    try:
        return partition_topics(
            client, settings.topic, settings.partitions, plain=settings.plain_topics
        )
    finally:
        disconnect(client)
