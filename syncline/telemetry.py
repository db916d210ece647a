"""What happened, told once: each method logs and counts one kind of event, once a batch."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from models.records import Entry

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

    def applied(self, entries: Sequence[Entry], unchanged: int) -> None:
        """A group of documents was committed, `unchanged` of them without any difference."""
        self.skipped_total += unchanged
        self._documents.labels("unchanged").inc(unchanged)
        for state in ("indexed", "deleted"):
            count = sum(entry.state == state for entry in entries)
            self._documents.labels(state).inc(count)
        for entry in entries:
            if entry.state == "failed" and entry.failure:
                self._documents.labels("failed").inc()
                _log.warning(
                    "document_failed",
                    collection=entry.key.collection,
                    document_id=entry.key.id[:200],
                    step=entry.failure.step,
                    reason=entry.failure.reason[:500],
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
