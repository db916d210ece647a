"""When the processes of one machine are started with a snapshot."""

from __future__ import annotations

from connectors.index import Index
from connectors.memory import MemoryStore
from models.records import Advance, Mark
from syncline.topology import _is_new


def test_an_index_without_marks_asks_for_a_snapshot() -> None:
    """A new one, and one that a direct flow has fed; not one that a topic feeds already."""
    store = MemoryStore()
    index = Index(store)
    assert _is_new(index)
    store.create(8)
    index.feed_from_topic(1)
    assert _is_new(index)
    mark = Mark(partition=0, of=1, generation=1, watermark=None)
    index.put_marks([Advance(mark, begins=True)])
    assert not _is_new(index)
    index.feed_directly()
    assert _is_new(index)


def test_an_index_that_does_not_answer_is_not_taken_for_new() -> None:
    """Nothing is known then, and every document would be published again at each start."""
    store = MemoryStore()
    store.create(8)
    store.refuse(1)
    assert not _is_new(Index(store))
