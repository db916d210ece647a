"""Telling drift from movement: suspects are looked at again once the index has caught up.

A document that is read unchanged twice, with the watermark passing between the two reads a cluster
time noted after the first, must be in the index as it was read: an entry that is unchanged too and
still differs is drift. Where no flow runs the watermark stands still, and a bounded wait decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from flows.verify_compare import Comparison
from flows.verify_pair import Finding
from models.records import Key, Timestamp

POLL_SECONDS = 0.05
"""One epoch of the flow: the watermark does not move more often."""


class Settled(NamedTuple):
    """What has become of suspects; those in neither part were no drift."""

    drift: list[Finding]
    unsettled: int


class Settler:
    """Confirms suspects, waiting at most `settle_seconds` a time."""

    def __init__(self, comparison: Comparison, settle_seconds: float) -> None:
        self._comparison = comparison
        self._seconds = settle_seconds
        self._stood_still: tuple[Timestamp, Timestamp | None] | None = None

    def confirm(self, keys: Iterable[Key]) -> Settled:
        """Look again until each suspect is in line, is drift, or time is up.

        When it is, a document that has changed each time is drift if its entry never followed, and
        unsettled if it did.
        """
        first = self._look(keys)
        pending, drift = first, list[Finding]()
        deadline = time.monotonic() + self._seconds
        while pending:
            in_time = self._wait_watermark(self._comparison.reader.cluster_time(), deadline)
            again = self._look(pending)
            confirmed = {key for key, now in again.items() if _is_same(now, pending[key])}
            is_over = not in_time or time.monotonic() >= deadline
            if is_over:
                confirmed |= {k for k, now in again.items() if now.version == first[k].version}
            drift += [now for key, now in again.items() if key in confirmed]
            pending = {key: now for key, now in again.items() if key not in confirmed}
            if is_over:
                break
        return Settled(drift, len(pending))

    def _look(self, keys: Iterable[Key]) -> dict[Key, Finding]:
        return {finding.key: finding for finding in self._comparison.look(keys)}

    def _wait_watermark(self, noted: Timestamp, deadline: float) -> bool:
        """Whether the index reflects everything up to `noted`, waiting for it until `deadline`."""
        began = now = self._watermark()
        while now is None or now < noted:
            if self._stood_still == (noted, now):
                return False  # Waited for in vain before, and nothing was written since.
            if time.monotonic() >= deadline:
                self._stood_still = (noted, now) if now == began else None
                return False
            self._comparison.pause_point(POLL_SECONDS)
            now = self._watermark()
        return True

    def _watermark(self) -> Timestamp | None:
        return self._comparison.index.watermark()


def _is_same(now: Finding, before: Finding) -> bool:
    return now.seen == before.seen and now.version == before.version
