"""An index whose database went back in time: older content is taken, nothing is embedded again."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.memory import MemoryStore
from models.ids import key_of
from models.records import ALL_COLLECTIONS, WHOLE, Floor, Position, Timestamp, Version
from syncline.errors import Unavailable
from tests.pipeline import Pipeline, gone, paragraphs, put

LATE, EARLY = 900, 100
TEXT = paragraphs(12)


class Failing:
    """A store whose n-th call fails, as a crash between two writes would end it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.left = -1

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.store, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Unavailable("index", "told to fail")
            return call(*args, **kwargs)

        return counted


def indexed(store: Any) -> Pipeline:
    """Documents of a late time: one that stays, changes, vanishes, comes back, was dropped."""
    pipeline = Pipeline(store)
    pipeline.run(
        put("stays", (LATE, 1), text=TEXT),
        put("changes", (LATE, 2), text=paragraphs(3)),
        put("vanishes", (LATE, 3), text=paragraphs(4)),
        gone("back", (LATE, 4)),
        put("dropped", (LATE, 5), collection="old", text=paragraphs(2)),
        Floor(collection="old", version=Version(LATE, 6)),
    )
    start = Version(LATE, 0)
    position = Position(scope="s", start=start, watermark=Timestamp(LATE, 9))
    pipeline.index.put_position(position)
    return pipeline


def read_again(pipeline: Pipeline) -> int:
    """The snapshot that follows, of an earlier time; how many chunks were embedded."""
    embedded = pipeline.run(
        Floor(collection=ALL_COLLECTIONS, version=Version(EARLY, 1)),
        put("stays", (EARLY, 1), text=TEXT),
        put("changes", (EARLY, 1), text=paragraphs(3, p1="As it was before.")),
        put("back", (EARLY, 1), text="Back again."),
    )
    mark = Timestamp(EARLY, 2)
    pipeline.index.sweep(mark, share=WHOLE, keep_seconds=10**6, more=lambda: True)
    return embedded


def texts(pipeline: Pipeline) -> dict[str, str]:
    """The first words of what readers see, by document."""
    entries = pipeline.index.entries([key_of("notes", n) for n in NAMES])
    entries |= pipeline.index.entries([key_of("old", "dropped")])
    chunks = pipeline.index.chunks([id_ for e in entries.values() for id_ in e.chunks])
    return {
        key.id: "\n\n".join(chunks[id_].text for id_ in entry.chunks)
        for key, entry in entries.items()
        if entry.state == "indexed"
    }


NAMES = ("stays", "changes", "vanishes", "back")
EXPECTED = {
    '"stays"': TEXT,
    '"changes"': paragraphs(3, p1="As it was before."),
    '"back"': "Back again.",
}


def test_an_earlier_database_is_taken() -> None:
    """What it holds replaces what is newer, what it does not hold goes, what is the same stays."""
    pipeline = indexed(MemoryStore())
    pipeline.index.rebase()
    assert pipeline.index.position() is None
    assert read_again(pipeline) == 2
    assert texts(pipeline) == EXPECTED
    assert pipeline.orphans() == 0


def test_without_it_nothing_earlier_counts() -> None:
    """The guard that it is there to pass does hold."""
    pipeline = indexed(MemoryStore())
    assert read_again(pipeline) == 0
    assert set(texts(pipeline)) >= {'"vanishes"'}


@pytest.mark.parametrize("at", range(1, 14))
def test_interrupted_it_is_done_again(at: int) -> None:
    """Whatever write is the last: the position stands until the end, and a second time does all."""
    store = Failing(MemoryStore())
    pipeline = indexed(store)
    store.left = at
    try:
        pipeline.index.rebase()
    except Unavailable:
        assert pipeline.index.position() is not None
        pipeline.index.rebase()
    store.left = -1
    assert read_again(pipeline) == 2
    assert texts(pipeline) == EXPECTED
