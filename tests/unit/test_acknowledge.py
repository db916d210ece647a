"""When a position is kept, and what must have been flushed before."""

from __future__ import annotations

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from flows import acknowledge
from flows.acknowledge import Acknowledge, Sweeper
from models.records import Cursor, Floor, Position, Share, Timestamp, Version
from syncline.control import Control

START = Version(5, 0)


def at(second: int, **fields: object) -> Position:
    return Position.model_validate(
        {"scope": "s", "start": START, "token": f"t{second}", "watermark": Timestamp(second, 1)}
        | fields
    )


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.create(4)
    return store


def make(store: MemoryStore, control: Control) -> tuple[Index, Acknowledge]:
    index = Index(store)
    return index, Acknowledge(index, control, tombstone_seconds=10)


def test_between_flushes_only_the_watermark_moves(store: MemoryStore) -> None:
    """A stored resume point is never ahead of the last flush; readers see the new watermark."""
    index, acknowledged = make(store, Control())
    acknowledged(at(6))
    acknowledged(at(7))
    kept = index.position()
    assert kept is not None
    assert (kept.token, kept.watermark) == ("t6", Timestamp(7, 1))


def test_a_flush_comes_before_the_position(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position that a restart goes on from is written after a flush, never before."""
    monkeypatch.setattr(acknowledge, "FLUSH_SECONDS", 0)
    index, acknowledged = make(store, Control())
    kept_at_flush: list[str | None] = []

    def flush() -> None:
        position = index.position()
        kept_at_flush.append(position.token if position else None)

    monkeypatch.setattr(store, "flush", flush)
    acknowledged(at(6))
    acknowledged(at(7))
    assert kept_at_flush == [None, "t6"]


def test_a_stop_keeps_the_newest_position(store: MemoryStore) -> None:
    """The last acknowledgement of a graceful stop is kept whole."""
    control = Control()
    index, acknowledged = make(store, control)
    acknowledged(at(6))
    control.request_stop()
    acknowledged(at(7))
    kept = index.position()
    assert kept is not None
    assert kept.token == "t7"


def test_no_watermark_stands_beside_a_snapshot_that_runs(store: MemoryStore) -> None:
    """The end of the snapshot and the first watermark are kept together."""
    index, acknowledged = make(store, Control())
    cursor = Cursor(collection="notes", version=START)
    acknowledged(at(6, cursors=(cursor,), watermark=None))
    acknowledged(at(7))
    kept = index.position()
    assert kept is not None
    assert (kept.cursors, kept.watermark, kept.token) == ((), Timestamp(7, 1), "t7")


def test_shares_are_swept_each_by_its_own_watermark(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one go, then not again before its time."""
    index = Index(store)
    swept: list[tuple[Share, Timestamp]] = []

    def sweep(watermark: Timestamp, *, share: Share, **_: object) -> int:
        swept.append((share, watermark))
        return 0

    monkeypatch.setattr(index, "sweep", sweep)
    sweeper = Sweeper(index, tombstone_seconds=10)
    marks = {Share(0, 3): Timestamp(7, 1), Share(2, 3): Timestamp(9, 1)}
    assert not sweeper.sweep({})
    assert not sweeper.sweep(marks)
    assert swept == [*marks.items()]
    assert not sweeper.sweep(marks)
    assert swept == [*marks.items()]


def test_a_sweep_that_is_cut_short_asks_to_be_called_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No share waits for ever behind another one's dropped collection."""
    monkeypatch.setattr(acknowledge, "SWEEP_SECONDS", 0)
    monkeypatch.setattr(acknowledge, "SWEEP_EVERY_SECONDS", 0)
    index = Index(store)
    index.put_floor(Floor(collection="notes", version=Version(5, 0)))
    sweeper = Sweeper(index, tombstone_seconds=10)
    assert sweeper.sweep({Share(0, 1): Timestamp(7, 1)})
    monkeypatch.setattr(acknowledge, "SWEEP_SECONDS", 60)
    assert not sweeper.sweep({Share(0, 1): Timestamp(7, 1)})
