"""An alias over stores in memory: the reference for the contract suite, the fake for tests."""

from __future__ import annotations

import threading

from connectors.alias import check_is_alias, check_not_serving
from connectors.memory import MemoryStore
from models.ids import is_index_name
from syncline.errors import Misconfigured


class MemoryAlias:
    """The `Alias` in a dictionary: what was written is there again when a collection is opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stores: dict[str, MemoryStore] = {}
        self._target: str | None = None
        self._lock = threading.RLock()

    def target(self) -> str | None:
        with self._lock:
            return next((c for c in (self.name, self._target) if self._exists(c)), None)

    def collections(self) -> list[str]:
        with self._lock:
            named = [c for c in self.stores if is_index_name(self.name, c)]
            return sorted(c for c in named if self._exists(c))

    def open(self, collection: str) -> MemoryStore:
        with self._lock:
            return self.stores.setdefault(collection, MemoryStore())

    def point_to(self, collection: str) -> None:
        with self._lock:
            check_is_alias(self)
            if not self._exists(collection):
                raise Misconfigured(f"there is no collection {collection!r}", "make it first")
            self._target = collection

    def remove(self, collection: str) -> None:
        with self._lock:
            check_not_serving(self, collection)
            self.stores.pop(collection, None)

    def close(self) -> None:
        pass

    def _exists(self, collection: str | None) -> bool:
        return collection in self.stores and self.stores[collection].exists()
