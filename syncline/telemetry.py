"""What happened, told once: each method logs and counts one kind of event, once a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from syncline.errors import SynclineError

_log = structlog.get_logger("syncline")


class Telemetry:
    """Counters of one process, in a registry of their own. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.embedded_total = 0
        """Chunks sent through the model since start."""
        self.skipped_total = 0
        """Changes since start that needed no write but their version."""
        self.published_total = 0
        """Messages that Pulsar confirmed since start, heartbeats included."""
        self._documents = Counter(
            "syncline_documents",
            "Document changes by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self._embedded = Counter(
            "syncline_chunks_embedded", "Chunks sent through the model", registry=self.registry
        )
        self._searches = Histogram(
            "syncline_search_seconds", "Time of a search, by mode", ["mode"], registry=self.registry
        )
        self._held = Gauge(
            "syncline_index_documents",
            "Documents of the index by state",
            ["state"],
            registry=self.registry,
        )
        self._drift = Gauge(
            "syncline_drift_documents",
            "Documents in drift after the last comparison, by kind",
            ["kind"],
            registry=self.registry,
        )
        self._repaired = Counter(
            "syncline_drift_repaired",
            "Documents that comparisons brought back in line",
            registry=self.registry,
        )
        self._verified = Gauge(
            "syncline_verify_completed_timestamp_seconds",
            "When the last comparison was completed; NaN before the first",
            registry=self.registry,
        )
        self._verifying = Gauge(
            "syncline_verify_seconds", "How long the last comparison took", registry=self.registry
        )
        self._verify_failures = Counter(
            "syncline_verify_failures",
            "Comparisons that a service or a setting cut short",
            registry=self.registry,
        )
        self.forget_verified()
        self._status: Callable[[], Mapping[str, Any]] | None = None
        self._published = Counter(
            "syncline_published",
            "Messages confirmed by Pulsar, by kind",
            ["kind"],
            registry=self.registry,
        )
        self._published_bytes = Counter(
            "syncline_published_bytes",
            "Bytes of messages confirmed by Pulsar, before compression",
            registry=self.registry,
        )
        self._publishing = Histogram(
            "syncline_publish_seconds",
            "Time until Pulsar had confirmed a batch",
            buckets=_PUBLISH_BUCKETS,
            registry=self.registry,
        )
        self.gauges = {
            name: Gauge(f"syncline_{name}", text, registry=self.registry)
            for name, text in _GAUGES.items()
        }

    def applied(self, outcomes: Mapping[str, int]) -> None:
        """A group of documents was committed: outcome (indexed, deleted, ...) -> how many."""
        for outcome, count in outcomes.items():
            self._documents.labels(outcome).inc(count)
        self.skipped_total += outcomes.get("unchanged", 0)

    def failed(self, *, collection: str, document_id: str, step: str, reason: str) -> None:
        """A document could not be indexed; its last good version stays."""
        self._documents.labels("failed").inc()
        _log.warning(
            "document_failed",
            collection=collection,
            document_id=document_id[:200],
            step=step,
            reason=reason[:500],
        )

    def stale(self, count: int) -> None:
        """Changes were dropped because something newer is already known."""
        self._documents.labels("stale").inc(count)

    def embedded(self, count: int) -> None:
        """Chunks were sent through the model."""
        self.embedded_total += count
        self._embedded.inc(count)

    def published(self, kinds: Mapping[str, int], size: int, seconds: float) -> None:
        """Pulsar confirmed a batch: messages by kind (upsert, ...), its bytes, how long it took."""
        for kind, count in kinds.items():
            self._published.labels(kind).inc(count)
        self.published_total += sum(kinds.values())
        self._published_bytes.inc(size)
        self._publishing.observe(seconds)

    def verified(self, drift: Mapping[str, int], *, repaired: int, seconds: float) -> None:
        """A comparison was completed: documents that still differ, by every kind there is."""
        for kind, count in drift.items():
            self._drift.labels(kind).set(count)
        self._repaired.inc(repaired)
        self._verified.set_to_current_time()
        self._verifying.set(seconds)
        if found := {kind: count for kind, count in drift.items() if count}:
            _log.warning("drift_found", **found)
        if repaired:
            _log.warning("drift_repaired", documents=repaired)

    def verify_failed(self, reason: str) -> None:
        """A comparison could not be completed; it will be tried again."""
        self._verify_failures.inc()
        _log.warning("verify_failed", reason=reason)

    def forget_verified(self) -> None:
        """This process does not know about drift."""
        self._drift.clear()
        self._verified.set(float("nan"))
        self._verifying.set(float("nan"))

    def searched(self, mode: str, seconds: float) -> None:
        """A search was answered."""
        self._searches.labels(mode).observe(seconds)

    def watch(self, status: Callable[[], Mapping[str, Any]]) -> None:
        """Ask `status` for the gauges' values whenever the metrics are read."""
        self._status = status

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if self._status is not None:
            self._set_gauges(self._status)
        return generate_latest(self.registry)

    def _set_gauges(self, status: Callable[[], Mapping[str, Any]]) -> None:
        try:
            facts = status()
        except SynclineError:  # the metrics of a process must not go away with a service
            self.gauges["ready"].set(0)
            return
        watermark = facts.get("watermark")
        values = {
            "lag_seconds": facts.get("lag_seconds"),
            "pending_changes": facts.get("pending"),
            "backlog_messages": facts.get("backlog"),
            "watermark_seconds": int(watermark.split(".")[0]) if watermark else None,
            "ready": not facts.get("waiting_for"),
            "chunks": facts.get("chunks"),
        }
        for name, value in values.items():
            # Unknown is not zero: a lag of 0 would say that all is well.
            self.gauges[name].set(float("nan") if value is None else value)
        for state, count in facts.get("documents", {}).items():
            self._held.labels(state).set(count)


_PUBLISH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_GAUGES = {
    "lag_seconds": "How far the index, or what is published, is behind the database",
    "pending_changes": "Changes received and not yet acknowledged",
    "backlog_messages": "Messages that the broker has still to deliver; NaN if unknown",
    "watermark_seconds": "Cluster time up to which index or topic reflect the database",
    "chunks": "Chunk points of the index",
    "ready": "1 while searches are answered and changes flow",
}
