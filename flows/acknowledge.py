"""What happens when the source acknowledges: the position is kept, and what is dead is swept."""

from __future__ import annotations

import time
from functools import partial

from connectors.index import Index
from models.records import Position
from syncline.control import Control
from syncline.retry import keep_trying

FLUSH_SECONDS = 1.0
"""A flush of the embedded engine takes some 20 ms in which nothing else runs. So in between only
the watermark moves, and a crash reads at most a second of changes again, which costs nothing."""
SWEEP_EVERY_SECONDS = 1.0
"""A sweep with nothing to do still asks the store twice; once a second is soon enough, because
readers obey a floor from the moment it stands."""
SWEEP_SECONDS = 0.2
"""Longest sweep at once, so that changes do not wait behind a dropped collection."""


class Acknowledge:
    """Called by the source with a position behind which everything is written.

    What a stored position goes on from has been flushed before it, so not even a power cut can
    leave a position without what it stands behind.
    """

    def __init__(self, index: Index, control: Control, *, tombstone_seconds: int) -> None:
        self._index = index
        self._control = control
        self._tombstone_seconds = tombstone_seconds
        self._flushed: Position | None = None
        self._flushed_at = 0.0
        self._swept_at = 0.0
        self._more = False

    def __call__(self, position: Position) -> bool:
        """Keep `position`; whether there is more to sweep, so that it should be called again soon.

        Raises `Stopped` if a stop is asked for while the index is away.
        """
        return keep_trying(partial(self._keep, position), self._control)

    def _keep(self, position: Position) -> bool:
        now = time.monotonic()
        if self._flushed is None or self._must_flush(self._flushed, position, now):
            self._index.store.flush()
            self._index.put_position(position)
            self._flushed, self._flushed_at = position, now
        else:
            seen = self._flushed.model_copy(update={"watermark": position.watermark})
            self._index.put_position(seen)
        return self._sweep(self._flushed, now)

    def _sweep(self, flushed: Position, now: float) -> bool:
        """By the flushed watermark: a tombstone must outlive every event that may come again."""
        if flushed.watermark is None or now - self._swept_at < SWEEP_EVERY_SECONDS:
            return self._more
        self._index.sweep(
            flushed.watermark,
            keep_seconds=self._tombstone_seconds,
            more=lambda: time.monotonic() < now + SWEEP_SECONDS,
        )
        self._swept_at = time.monotonic()
        self._more = self._swept_at >= now + SWEEP_SECONDS
        return self._more

    def _must_flush(self, flushed: Position, position: Position, now: float) -> bool:
        return (
            self._control.stop_requested
            or now - self._flushed_at >= FLUSH_SECONDS
            or flushed.generation != position.generation
            # A watermark must not stand beside cursors that are not done.
            or (bool(flushed.cursors) and not position.cursors)
        )
