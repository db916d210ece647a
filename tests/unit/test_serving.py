"""Which index answers: a request keeps what it took, and `serve` follows the alias."""

from __future__ import annotations

import threading

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.memory_alias import MemoryAlias
from models.ids import index_name
from models.records import Recipe
from retriever.records import SearchRequest
from retriever.search import Retriever
from retriever.serving import Serving
from syncline.alias_follower import AliasFollower
from syncline.errors import Misconfigured, Unavailable
from syncline.making import plan_making
from syncline.retired import RetiredIndexes
from syncline.settings import Configuration
from tests.retrieval import Shelf

QUERY = SearchRequest(query="storm")


def retriever() -> Retriever:
    return Shelf(MemoryStore()).retriever


def test_a_request_keeps_the_index_it_took() -> None:
    """What replaced it answers the next; the old one is free after its last request, once."""
    serving, old, new, freed = Serving(), retriever(), retriever(), list[str]()
    serving.switch(old, lambda: freed.append("old"))
    with serving.taken() as first, serving.taken() as second:
        serving.switch(new, lambda: freed.append("new"))
        assert first is second is old
        with serving.taken() as third:
            assert third is new
        assert freed == []
    assert freed == ["old"]
    serving.switch(old, lambda: None)
    assert freed == ["old", "new"]


def test_without_an_index_it_is_unavailable() -> None:
    """A request before the first index is open is one to repeat."""
    with pytest.raises(Unavailable, match="not open yet"):
        Serving().search(QUERY)


def made(alias: MemoryAlias, model: str) -> tuple[str, Recipe]:
    """An empty index of a model, and its collection."""
    recipe = plan_making(Configuration.model_validate({"embedder": {"model": model}})).recipe
    name = f"{alias.name}-{'a' * 12}" if model == "hash:64" else f"{alias.name}-{'b' * 12}"
    Index(alias.open(name)).open(recipe)
    return name, recipe


def test_serve_follows_the_alias_with_its_model() -> None:
    """Nothing, then one model, then the other: each query by the model of the index."""
    alias = MemoryAlias("docs")
    follower = AliasFollower(
        Configuration.model_validate({"embedder": {"model": "hash:64"}}), alias
    )
    follower.look()
    assert follower.ready() == (False, {"index": "it has not been built yet"})
    for model in ("hash:64", "hash:128"):
        name, recipe = made(alias, model)
        alias.point_to(name)
        follower.look()
        # A vector of another dimension would be refused.
        assert follower.serving.search(QUERY).hits == () and follower.ready()[0]
        assert follower.status()["serving"]["model"] == recipe.model


def test_serve_stays_with_what_it_can_answer_from() -> None:
    """A model that is not to be had: the old index answers on; at a start it is an error."""
    alias = MemoryAlias("docs")
    config = Configuration.model_validate({"embedder": {"model": "hash:64"}})
    follower = AliasFollower(config, alias)
    good, recipe = made(alias, "hash:64")
    alias.point_to(good)
    follower.look()
    bad = f"docs-{'c' * 12}"
    Index(alias.open(bad)).open(recipe.model_copy(update={"model": "gone", "load": "hash:64"}))
    alias.point_to(bad)
    follower.look()
    assert follower.serving.search(QUERY).hits == ()
    assert follower.status()["serving"]["collection"] == good
    with pytest.raises(Misconfigured, match="cannot make any more"):
        AliasFollower(config, alias).look()


def test_only_what_a_recipe_of_ours_names_is_removed() -> None:
    """A collection that merely has such a name stays, whatever the grace."""
    alias = MemoryAlias("docs")
    theirs, recipe = made(alias, "hash:64")
    ours = index_name("docs", recipe)
    Index(alias.open(ours)).open(recipe)
    retired = RetiredIndexes(alias, 0)
    retired.clear([ours], threading.Lock())
    assert alias.collections() == sorted([ours, theirs])
    retired.clear([], threading.Lock())
    assert alias.collections() == [theirs] and retired.names == []
