"""What happens when a source acknowledges: what it stands behind is kept, what is dead is swept.

A flush of the embedded engine takes some 20 ms in which nothing else runs, so there is one at most
once a second, and in between only the watermark moves: docs/decisions/0009-flush-once-a-second.md.
What a restart goes on from has always been flushed before, so not even a power cut can leave it
without what it stands behind.

`Flushes` and `Sweeper` serve any flow. `Acknowledge` is the direct flow's, whose position lives in
the index; the index flow's position is the broker's, and the index has its marks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from connectors.index import Index
from connectors.store import Store
from models.records import WHOLE, Position, Share, Timestamp
from syncline.control import Control
from syncline.retry import keep_trying

FLUSH_SECONDS = 1.0
"""A crash reads at most a second of changes again, which costs nothing."""
SWEEP_EVERY_SECONDS = 1.0
"""A sweep with nothing to do still asks the store twice; once a second is soon enough, because
readers obey a floor from the moment it stands."""
SWEEP_SECONDS = 0.2
"""Longest sweep at once, so that changes do not wait behind a dropped collection."""


class Flushes:
    """When the store is to be flushed: at the first acknowledgement, once a second, at a stop."""

    def __init__(self, store: Store, control: Control) -> None:
        self._store = store
        self._control = control
        self._flushed_at: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time again."""
        at = self._flushed_at
        return at is None or self._control.stop_requested or time.monotonic() - at >= FLUSH_SECONDS

    def flush(self) -> None:
        """Make all that was written survive a power cut. Raises `Unavailable`."""
        began = time.monotonic()
        self._store.flush()
        self._flushed_at = began


class Sweeper:
    """Sweeps shares of the index at most once a second, for a bounded time."""

    def __init__(self, index: Index, *, tombstone_seconds: int) -> None:
        self._index = index
        self._tombstone_seconds = tombstone_seconds
        self._swept_at = 0.0
        self._more = False

    def sweep(self, watermarks: Mapping[Share, Timestamp]) -> bool:
        """Sweep these shares, if it is time; whether it was cut short, so that it should be
        called again soon.

        Each watermark must be one that has been flushed: a tombstone must outlive every event
        that may come again. Raises `Unavailable` while the store does not answer.
        """
        if not watermarks or time.monotonic() - self._swept_at < SWEEP_EVERY_SECONDS:
            return self._more
        seconds = SWEEP_SECONDS / len(watermarks)
        cut_short = [self._sweep(share, mark, seconds) for share, mark in watermarks.items()]
        self._swept_at, self._more = time.monotonic(), any(cut_short)
        return self._more

    def _sweep(self, share: Share, watermark: Timestamp, seconds: float) -> bool:
        until = time.monotonic() + seconds
        self._index.sweep(
            watermark,
            share=share,
            keep_seconds=self._tombstone_seconds,
            more=lambda: time.monotonic() < until,
        )
        return time.monotonic() >= until


class Acknowledge:
    """Called by the direct source with a position behind which everything is written."""

    def __init__(self, index: Index, control: Control, *, tombstone_seconds: int) -> None:
        self._index = index
        self._control = control
        self._flushes = Flushes(index.store, control)
        self._sweeper = Sweeper(index, tombstone_seconds=tombstone_seconds)
        self._flushed: Position | None = None

    def __call__(self, position: Position) -> bool:
        """Keep `position`; whether there is more to sweep, so that it should be called again soon.

        Raises `Stopped` if a stop is asked for while the index is away.
        """
        return keep_trying(partial(self._keep, position), self._control)

    def _keep(self, position: Position) -> bool:
        flushed = self._flushed
        if flushed is None or self._flushes.is_due or _is_turn(flushed, position):
            self._flushes.flush()
            self._index.put_position(position)
            self._flushed = flushed = position
        else:
            seen = flushed.model_copy(update={"watermark": position.watermark})
            self._index.put_position(seen)
        return self._sweeper.sweep({WHOLE: flushed.watermark} if flushed.watermark else {})


def _is_turn(flushed: Position, position: Position) -> bool:
    """A position that is kept whole at once: a watermark must not stand beside cursors that are
    not done, nor one generation's beside another's."""
    return flushed.generation != position.generation or (
        bool(flushed.cursors) and not position.cursors
    )
