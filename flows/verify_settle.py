"""Telling drift from movement: suspects are looked at again once the index has caught up.

A document that is read unchanged twice, with the watermark passing between the two reads a cluster
time noted after the first, must be in the index as it was read: an entry that is unchanged too and
still differs is drift. Where no flow runs the watermark stands still, and a bounded wait decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from flows.verify_compare import Comparison, Finding
from models.records import Key, Timestamp

POLL_SECONDS = 0.05
"""One epoch of the flow: the watermark does not move more often."""
STANDSTILL_SECONDS = 1.0
"""The wait once the watermark has been seen to stand still for the whole bound: long enough for a
flow that was idle to write and acknowledge one change."""


class Settled(NamedTuple):
    """What has become of suspects; those in neither part were no drift."""

    drift: list[Finding]
    unsettled: int


class Settler:
    """Confirms suspects, waiting at most `settle_seconds` a time."""

    def __init__(self, comparison: Comparison, settle_seconds: float) -> None:
        self._comparison = comparison
        self._seconds = settle_seconds
        self._stood_at: Timestamp | None = None
        self._stood = False

    def confirm(self, keys: Iterable[Key]) -> Settled:
        """Look again until each suspect is in line, is drift, or time is up.

        When it is, a document that has changed each time is drift if its entry never followed, and
        unsettled if it did.
        """
        first = {finding.key: finding for finding in self._comparison.look(keys)}
        pending, drift = first, []
        deadline = time.monotonic() + self._seconds
        while pending:
            in_time = self._wait_watermark(self._comparison.reader.cluster_time(), deadline)
            again = {finding.key: finding for finding in self._comparison.look(pending)}
            confirmed = {key for key, now in again.items() if _is_same(now, pending[key])}
            if not in_time or time.monotonic() >= deadline:
                confirmed |= {key for key, now in again.items() if now.version == first[key].version}
                return Settled(
                    drift + [again[key] for key in again if key in confirmed],
                    len(again) - len(confirmed),
                )
            drift += [again[key] for key in again if key in confirmed]
            pending = {key: now for key, now in again.items() if key not in confirmed}
        return Settled(drift, 0)

    def _wait_watermark(self, noted: Timestamp, deadline: float) -> bool:
        """Whether the index reflects everything up to `noted`, waiting for it until `deadline`."""
        began = self._watermark()
        if self._stood and began == self._stood_at:
            deadline = min(deadline, time.monotonic() + STANDSTILL_SECONDS)
        now = began
        while now is None or now < noted:
            if time.monotonic() >= deadline:
                self._stood, self._stood_at = now == began, now
                return False
            self._comparison.pause_point()
            time.sleep(POLL_SECONDS)
            now = self._watermark()
        return True

    def _watermark(self) -> Timestamp | None:
        position = self._comparison.index.position()
        return position.watermark if position else None


def _is_same(now: Finding, before: Finding) -> bool:
    return now.seen == before.seen and now.version == before.version
