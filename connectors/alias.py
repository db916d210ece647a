"""An alias and the collections of which it names the one that serves.

Each index is a collection of its own, named after its recipe (`models.ids.index_name`); a new
recipe is a new collection, and the alias moves to it in one step. Readers of the alias see the old
index or the new one. Implemented by `qdrant_edge_alias`, `qdrant_alias` and `memory_alias`; one
contract suite, `tests/contract/test_alias.py`, runs over all.

Errors and threads: as of a `Store`.
"""

from __future__ import annotations

from typing import Protocol

from connectors.store import Store
from syncline.errors import Misconfigured


class Alias(Protocol):
    """One alias. Opens nothing until it is asked to."""

    @property
    def name(self) -> str:
        """The alias itself."""

    def target(self) -> str | None:
        """The collection that serves: where the alias points to, or a collection that bears its
        name itself. None if there is neither."""

    def collections(self) -> list[str]:
        """The collections that exist and are named as an index behind this alias is, in order."""

    def open(self, collection: str) -> Store:
        """The store of a collection, which need not exist yet; its caller closes it."""

    def point_to(self, collection: str) -> None:
        """Move the alias to an existing collection, in one step that survives a power cut.

        Again: nothing. Raises `Misconfigured` if a collection bears the alias's name.
        """

    def remove(self, collection: str) -> None:
        """Remove a collection that is not open here, with all it holds. Again: nothing.

        Raises `Misconfigured` if it is the one that serves.
        """

    def close(self) -> None:
        """Release what the alias itself uses; stores stay open."""


def check_is_alias(alias: Alias) -> None:
    """Raises `Misconfigured` if a collection bears the alias's name, so that it cannot move."""
    if alias.target() == alias.name:
        raise Misconfigured(
            f"{alias.name!r} is a collection, not an alias, so it cannot move to a new index",
            "set qdrant.collection to a new name: a new index is built there, and the old one"
            " stays as it is until you remove it",
            code="index_foreign",
        )


def check_not_serving(alias: Alias, collection: str) -> None:
    """Raises `Misconfigured` if the collection is the one that serves."""
    if alias.target() == collection:
        raise Misconfigured(
            f"the collection {collection!r} serves, so it is not removed",
            "let another index take its place first: `syncline reindex`",
        )
