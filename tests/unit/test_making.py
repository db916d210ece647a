"""How an index is made is found again from its recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.ids import index_name, is_index_name, recipe_fingerprint
from syncline.errors import Misconfigured
from syncline.making import Making, make_again, plan_making
from syncline.settings import Configuration


def plan(model: str = "hash:64", chunk: int | None = 32, like: Making | None = None) -> Making:
    settings = {"embedder": {"model": model}, "chunker": {"max_tokens": chunk}}
    return plan_making(Configuration.model_validate(settings), like)


@pytest.mark.parametrize(
    ("model", "chunk"), [("hash:64", 48), ("hash:128", 32), ("hash:128", None)]
)
def test_a_recipe_is_enough_to_make_it_again(model: str, chunk: int | None) -> None:
    """Model and chunk size are those of the recipe, all else is as now."""
    old, now = plan(model, chunk), plan()
    again = make_again(old.recipe, now)
    assert again.makes(old.recipe) and not now.makes(old.recipe)
    assert again.config.mongo == now.config.mongo


def test_a_model_that_is_loaded_is_not_loaded_again() -> None:
    """Another chunk size shares the embedder; another model has its own."""
    now = plan()
    assert make_again(plan(chunk=48).recipe, now).embedder is now.embedder
    assert plan("hash:128", like=now).embedder is not now.embedder


@pytest.mark.parametrize("change", [{"codec": 1}, {"chunker": "rank-0/32/4"}, {"model": "other"}])
def test_what_cannot_be_made_any_more_is_refused(change: dict[str, object]) -> None:
    """Another codec, another chunker's algorithm, a model that is not what it was."""
    recipe = plan("hash:128").recipe.model_copy(update=change)
    with pytest.raises(Misconfigured, match="cannot make any more"):
        make_again(recipe, plan())


def test_the_name_of_an_index_says_what_it_is_made_of() -> None:
    """Where the model was found on this machine does not count, all else does."""
    recipe = plan().recipe
    moved = recipe.model_copy(update={"load": str(Path("/elsewhere"))})
    assert recipe.load == "hash:64" and recipe_fingerprint(moved) == recipe_fingerprint(recipe)
    others = [plan(chunk=48).recipe, plan("hash:128").recipe]
    names = {index_name("docs", each) for each in (recipe, moved, *others)}
    assert len(names) == 3 and all(is_index_name("docs", name) for name in names)
    assert not any(is_index_name("doc", name) or is_index_name("docs-x", name) for name in names)
