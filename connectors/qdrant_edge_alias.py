"""An alias over Qdrant Edge: collections are directories, and the alias is a link to one of them.

A link is replaced by renaming another one over it, which the file system does in one step.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from connectors.alias import check_is_alias, check_not_serving
from connectors.qdrant_edge import EdgeStore
from models.ids import is_index_name
from syncline.errors import Misconfigured

_REMOVED = ".removed"
_NEXT = ".next"


class EdgeAlias:
    """The `Alias` called `name` in `directory`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._directory = directory
        self._link = directory / name

    def target(self) -> str | None:
        if not self._link.is_dir():  # nor a link to one
            return None
        return self._link.readlink().name if self._link.is_symlink() else self.name

    def collections(self) -> list[str]:
        found = self._directory.iterdir() if self._directory.exists() else ()
        return sorted(p.name for p in found if is_index_name(self.name, p.name) and p.is_dir())

    def open(self, collection: str) -> EdgeStore:
        return EdgeStore(self._directory / collection)

    def point_to(self, collection: str) -> None:
        check_is_alias(self)
        if not (self._directory / collection).is_dir():
            raise Misconfigured(f"there is no collection {collection!r}", "make it first")
        link = self._link.with_name(self.name + _NEXT)
        link.unlink(missing_ok=True)
        link.symlink_to(collection)
        link.replace(self._link)
        self._sync()

    def remove(self, collection: str) -> None:
        check_not_serving(self, collection)
        path = self._directory / collection
        gone = path.with_name(path.name + _REMOVED)
        # Out of sight first: a crash must leave no collection that lacks some of its files.
        shutil.rmtree(gone, ignore_errors=True)
        if path.exists():
            path.rename(gone)
            self._sync()
            shutil.rmtree(gone)

    def close(self) -> None:
        pass

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
