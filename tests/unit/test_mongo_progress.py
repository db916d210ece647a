"""What was emitted, as a position."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.mongo_events import Happening
from connectors.mongo_progress import Progress
from connectors.mongo_snapshot import After, Found
from connectors.mongo_stream import Idle
from models.ids import decode_id, key_of
from models.records import Cursor, Position, Timestamp, Upsert, Version

T = Version(100, 5)
A = Cursor(collection="a", version=T)
B = Cursor(collection="b", version=T)


def progress(*cursors: Cursor, **fields: Any) -> Progress:
    """Of a position that begins at T."""
    return Progress(Position(scope="s", start=T, cursors=cursors, **fields))


def event(seconds: int, increment: int, **fields: Any) -> Happening:
    """An event of that time, without changes."""
    return Happening({"_data": f"{seconds}"}, Version(seconds, increment), **fields)


def found(cursor: Cursor, after: After) -> Found:
    """A document of a snapshot."""
    change = Upsert(key=key_of(cursor.collection, 1), version=cursor.version, fields={})
    return Found(cursor, change, after)


def test_watermark_waits_for_the_snapshots() -> None:
    """It is unset while one snapshot runs, and then at least the time of the snapshot."""
    reading = progress(A, B)
    reading.finished(A)
    assert reading.position().watermark is None
    reading.finished(B)
    assert reading.position().watermark == Timestamp(100, 5)


def test_watermark_stays_below_the_last_event() -> None:
    """Another event of the same time may follow, until an idle answer says that none does."""
    reading = progress()
    reading.happened(event(200, 3))
    assert reading.position().watermark == Timestamp(200, 2)
    reading.rested(Idle({"_data": "x"}, Timestamp(200, 3)))
    assert reading.position().watermark == Timestamp(200, 3)


def test_watermark_never_goes_back() -> None:
    """Neither by an idle answer without a time, nor by a snapshot that begins later."""
    reading = progress(watermark=Timestamp(300, 1))
    reading.rested(Idle({"_data": "x"}, None))
    reading.happened(event(200, 3, begun=(B,)))
    assert reading.position().watermark == Timestamp(300, 1)
    reading.rested(Idle({"_data": "y"}, Timestamp(400, 1)))
    assert reading.position().watermark == Timestamp(300, 1)
    reading.finished(B)
    assert reading.position().watermark == Timestamp(400, 1)


@pytest.mark.parametrize("last", ["x", None, 7, {"a": [1]}])
def test_cursors_follow_what_is_emitted(last: Any) -> None:
    """A cursor is after the last `_id` that was emitted; null is an `_id` like any other."""
    reading = progress(A, B)
    reading.found(found(A, (last,)))
    first, second = reading.position().cursors
    assert first.last_id is not None
    assert decode_id(first.last_id) == last
    assert second == B


def test_unknown_place_stays_the_old_one() -> None:
    """A document whose `_id` no query can name moves no cursor."""
    reading = progress(A)
    reading.found(found(A, None))
    assert reading.position().cursors == (A,)


def test_a_drop_ends_a_snapshot() -> None:
    """What its reader still delivers is not wanted, also not by a new one of the same name."""
    reading = progress(A)
    assert reading.is_running(A)
    reading.happened(event(200, 1, ended=frozenset({"a"})))
    assert not reading.is_running(A)
    renamed = Cursor(collection="a", version=Version(201, 1))
    reading.happened(event(201, 1, begun=(renamed,)))
    assert not reading.is_running(A)
    assert reading.is_running(renamed)


def test_resumed_snapshot_is_recognised() -> None:
    """A cursor that begins in the middle is the same snapshot as the one that began it."""
    resumed = A.model_copy(update={"last_id": '"m"'})
    reading = progress(resumed)
    assert reading.is_running(resumed)
    assert reading.position().cursors == (resumed,)
