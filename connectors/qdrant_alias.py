"""An alias on a Qdrant server: Qdrant's own collection alias."""

from __future__ import annotations

from collections.abc import Callable

from qdrant_client import QdrantClient
from qdrant_client import models as qdrant

from connectors.alias import check_is_alias, check_not_serving
from connectors.qdrant import QdrantStore
from connectors.qdrant_errors import translated
from models.ids import is_index_name


class QdrantAlias:
    """The `Alias` called `name` on the server of `client`, which this closes; `open_collection`
    makes the stores, each with a client of its own."""

    def __init__(
        self, client: QdrantClient, name: str, open_collection: Callable[[str], QdrantStore]
    ) -> None:
        self.name = name
        self._client = client
        self._open_collection = open_collection

    def target(self) -> str | None:
        return self._alias() or (self.name if self._is_collection() else None)

    def collections(self) -> list[str]:
        return sorted(name for name in self._collections() if is_index_name(self.name, name))

    def open(self, collection: str) -> QdrantStore:
        return self._open_collection(collection)

    def point_to(self, collection: str) -> None:
        check_is_alias(self)
        if (before := self._alias()) == collection:
            return
        steps: list[qdrant.AliasOperations] = []
        if before is not None:
            drop = qdrant.DeleteAlias(alias_name=self.name)
            steps.append(qdrant.DeleteAliasOperation(delete_alias=drop))
        make = qdrant.CreateAlias(collection_name=collection, alias_name=self.name)
        steps.append(qdrant.CreateAliasOperation(create_alias=make))
        # All of one call take effect at once.
        with translated(collection):
            self._client.update_collection_aliases(steps)

    def remove(self, collection: str) -> None:
        check_not_serving(self, collection)
        with translated(collection):
            self._client.delete_collection(collection)

    def close(self) -> None:
        self._client.close()

    def _alias(self) -> str | None:
        with translated(self.name):
            found = self._client.get_aliases().aliases
        return next((a.collection_name for a in found if a.alias_name == self.name), None)

    def _is_collection(self) -> bool:
        return self.name in self._collections()

    def _collections(self) -> list[str]:
        with translated(self.name):
            return [found.name for found in self._client.get_collections().collections]
