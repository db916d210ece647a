"""What happens when the source acknowledges: the position is kept, and what is dead is swept."""

from __future__ import annotations

import time

from connectors.index import Index
from models.records import Position
from syncline.control import Control
from syncline.retry import keep_trying

SWEEP_EVERY_SECONDS = 1.0
"""A sweep with nothing to do still asks the store twice; once a second is soon enough, because
readers obey a floor from the moment it stands."""
SWEEP_SECONDS = 0.2
"""Longest sweep at once, so that changes do not wait behind a dropped collection."""


class Acknowledge:
    """Called by the source with a position behind which everything is written."""

    def __init__(self, index: Index, control: Control, *, tombstone_seconds: int) -> None:
        self._index = index
        self._control = control
        self._tombstone_seconds = tombstone_seconds
        self._swept_at = 0.0

    def __call__(self, position: Position) -> None:
        """Keep `position`. Raises `Stopped` if a stop is asked for while the index is away."""
        keep_trying(lambda: self._keep(position), self._control)

    def _keep(self, position: Position) -> None:
        self._index.store.flush()
        self._index.put_position(position)
        now = time.monotonic()
        if position.watermark is not None and now - self._swept_at >= SWEEP_EVERY_SECONDS:
            self._index.sweep(
                position.watermark,
                keep_seconds=self._tombstone_seconds,
                more=lambda: time.monotonic() < now + SWEEP_SECONDS,
            )
            self._swept_at = time.monotonic()
