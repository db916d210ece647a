"""Metrics tell what the status tells, at the moment they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syncline.errors import Unavailable
from syncline.telemetry import Telemetry


def test_gauges_are_read_when_the_metrics_are() -> None:
    """Each exposition asks anew; a value that is unknown is NaN, not zero."""
    facts: dict[str, Any] = {"lag_seconds": None, "pending": 3, "watermark": "70.2", "chunks": 9}
    telemetry = Telemetry()
    telemetry.watch(lambda: {**facts, "waiting_for": {}, "documents": {"failed": 4}})
    assert lines(telemetry) >= {
        "syncline_lag_seconds NaN",
        "syncline_pending_changes 3.0",
        "syncline_watermark_seconds 70.0",
        "syncline_chunks 9.0",
        "syncline_ready 1.0",
        'syncline_index_documents{state="failed"} 4.0',
    }
    facts |= {"lag_seconds": 1.5, "pending": 0}
    assert lines(telemetry) >= {"syncline_lag_seconds 1.5", "syncline_pending_changes 0.0"}


def test_metrics_survive_an_index_that_is_away() -> None:
    """While the store does not answer the process is not ready, and its counters are readable."""

    def status() -> Mapping[str, Any]:
        raise Unavailable("qdrant", "connection refused")

    telemetry = Telemetry()
    telemetry.embedded(5)
    telemetry.watch(status)
    assert lines(telemetry) >= {"syncline_ready 0.0", "syncline_chunks_embedded_total 5.0"}


def lines(telemetry: Telemetry) -> set[str]:
    return set(telemetry.exposition().decode().splitlines())
