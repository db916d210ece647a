"""The one store that another local process shares, in the place of an alias: it cannot move."""

from __future__ import annotations

from collections.abc import Callable

from connectors.store import Store


class SharedAlias:
    """Whatever collection is asked for is the shared store. An index of another recipe is refused,
    as where a plain collection bears the alias's name."""

    def __init__(self, name: str, open_store: Callable[[], Store]) -> None:
        self.name = name
        self._open = open_store
        self._store = open_store()
        self._target: str | None = None

    def target(self) -> str | None:
        """What it was pointed to here; else the store itself, once there is an index in it."""
        return self._target or (self.name if self._store.exists() else None)

    def collections(self) -> list[str]:
        """None that an alias could move to."""
        return []

    def open(self, collection: str) -> Store:
        """The store."""
        return self._open()

    def point_to(self, collection: str) -> None:
        """The store is called this from now on."""
        self._target = collection

    def remove(self, collection: str) -> None:
        """Nothing: the process that owns the store keeps it."""

    def close(self) -> None:
        """Leave the store to others."""
        self._store.close()
