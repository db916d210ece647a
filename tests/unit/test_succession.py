"""When an index may be replaced by its successor."""

from __future__ import annotations

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from models.records import Cursor, Position, Timestamp, Version
from syncline.succession import has_caught_up


def index_at(seconds: int | None) -> Index:
    """An index that reflects the database up to then; None: its first snapshot still runs."""
    store = MemoryStore()
    store.create(8)
    index, start = Index(store), Version(1, 0)
    running = Cursor(collection="notes", version=start)
    index.put_position(
        Position(
            scope="s",
            start=start,
            cursors=() if seconds else (running,),
            watermark=Timestamp(seconds, 0) if seconds else None,
        )
    )
    return index


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [(5, 5, True), (5, 6, True), (5, 4, False), (5, None, False), (None, None, False)],
)
def test_not_before_it_holds_what_the_old_one_does(
    old: int | None, new: int | None, may: bool
) -> None:
    """Complete, and as of then or later; what was never complete itself keeps nobody waiting."""
    assert has_caught_up(index_at(old), index_at(new)) is may
    assert has_caught_up(index_at(None), index_at(5))
