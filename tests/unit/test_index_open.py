"""Opening an index: by several writers at once, and where others have written."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.store import Point
from models.conditions import All
from models.ids import single_id
from models.points import OWN
from models.records import Recipe
from syncline.errors import Misconfigured, PositionLost

RECIPE = Recipe(model="m", dimension=8, max_tokens=64, chunker="c", codec=1)


class Slow(MemoryStore):
    """Lets another thread come in between any two writes."""

    def upsert(self, points: Sequence[Point]) -> None:
        super().upsert(points)
        threading.Event().wait(0.002)


def test_several_writers_open_a_new_index_at_once() -> None:
    """Replicas that start together neither trip over each other's probes nor over the recipe."""
    for _ in range(20):
        store, errors = Slow(), list[BaseException]()

        def open_it(store: Slow = store, errors: list[BaseException] = errors) -> None:
            try:
                Index(store).open(RECIPE)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and Index(store).recipe() == RECIPE


def test_the_first_recipe_stands() -> None:
    """Another recipe is refused."""
    store = MemoryStore()
    Index(store).open(RECIPE)
    with pytest.raises(Misconfigured, match="model"):
        Index(store).open(RECIPE.model_copy(update={"model": "other"}))


def test_points_of_others_are_left_alone() -> None:
    """A collection that somebody else has filled is refused."""
    store = MemoryStore()
    store.create(8)
    store.upsert([Point("00000000-0000-0000-0000-000000000001", {"page_content": "theirs"})])
    with pytest.raises(Misconfigured, match="did not write"):
        Index(store).open(RECIPE)


def test_opening_again_leaves_nothing_more() -> None:
    """However often, and wherever it is killed, the index holds what one opening makes."""
    store, left = MemoryStore(), iter(range(0))

    def before(_operation: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    for writes in range(20):
        left, store.before_write = iter(range(writes)), before
        with suppress(KeyboardInterrupt):
            Index(store).open(RECIPE)
    assert store.count(All(conditions=())) == len(["probe", "recipe"])


def test_a_position_that_cannot_be_read_is_lost() -> None:
    """It is none for readers, who go on, and told to the flow, which must not begin in silence."""
    store = MemoryStore()
    index = Index(store)
    index.open(RECIPE)
    assert index.resumable_position() is None
    for record in ({"scope": "s", "start": [1]}, None, "cut o"):
        store.upsert([Point(single_id("position"), {OWN: {"kind": "position", "record": record}})])
        assert index.position() is None
        assert index.watermark() is None
        with pytest.raises(PositionLost):
            index.resumable_position()
