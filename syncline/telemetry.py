"""What happened, told once: each method logs and counts one kind of event, once a batch."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_log = structlog.get_logger("syncline")


class Telemetry:
    """Counters of one process, in a registry of their own. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.embedded_total = 0
        """Chunks sent through the model since start."""
        self.skipped_total = 0
        """Changes since start that needed no write but their version."""
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

    def searched(self, mode: str, seconds: float) -> None:
        """A search was answered."""
        self._searches.labels(mode).observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


_GAUGES = {
    "lag_seconds": "How far the index is behind the database",
    "pending_changes": "Changes received and not yet acknowledged",
    "watermark_seconds": "Cluster time up to which the index reflects the database",
    "ready": "1 while searches are answered and changes flow",
}
