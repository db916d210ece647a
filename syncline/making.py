"""How an index is made: the settings, and what they load. Also of one that was made before.

A recipe is enough to make an index again as long as its model can be found: what it does not say
(services, mapping, device) is taken from the settings of now.
"""

from __future__ import annotations

from typing import NamedTuple

from models.embedders import Embedder
from models.ids import recipe_fingerprint
from models.records import Recipe
from syncline.assemble import load_embedder, make_chunker, make_recipe
from syncline.errors import Misconfigured
from syncline.settings import ChunkerSettings, Configuration
from transforms.chunk import max_tokens_of
from transforms.map import check_rule


class Making(NamedTuple):
    """How an index is made."""

    config: Configuration
    embedder: Embedder
    recipe: Recipe

    def makes(self, recipe: Recipe) -> bool:
        """Whether an index of this recipe is one that it makes."""
        return recipe_fingerprint(recipe) == recipe_fingerprint(self.recipe)


def plan_making(config: Configuration, like: Making | None = None) -> Making:
    """What `config` asks for. The model is loaded, unless `like` has it.

    Raises `Misconfigured`.
    """
    for name, rule in config.mapping.items():
        check_rule(name, rule)
    has_it = like is not None and like.config.embedder == config.embedder
    embedder = like.embedder if like is not None and has_it else load_embedder(config)
    chunker = make_chunker(config, embedder)
    return Making(config, embedder, make_recipe(embedder, chunker, load=config.embedder.model))


def make_again(recipe: Recipe, like: Making) -> Making:
    """What made an index of this recipe; all that the recipe does not say is as in `like`.

    Raises `Misconfigured` if it cannot be made any more.
    """
    if like.makes(recipe):
        return like
    same_model = recipe.model == like.recipe.model
    model = like.config.embedder.model if same_model else recipe.load or recipe.model
    chunker = ChunkerSettings(max_tokens=max_tokens_of(recipe.chunker))
    embedder = like.config.embedder.model_copy(update={"model": model})
    config = like.config.model_copy(update={"embedder": embedder, "chunker": chunker})
    made = plan_making(config, like)
    if not made.makes(recipe):
        raise Misconfigured(
            f"the index that serves was made by {recipe.model} ({recipe.chunker}, codec "
            f"{recipe.codec}), which this configuration and version cannot make any more "
            f"({made.recipe.model}, {made.recipe.chunker}, codec {made.recipe.codec})",
            "put the model back to where it was, or set qdrant.collection to a new name, which"
            " begins a new index",
            code="recipe_changed",
        )
    return made
