"""Indexes that serve no longer: kept for a grace time, then removed.

Since when is stored in each of them, so a restart goes on counting. One that nobody has marked,
because its builder was killed or its settings were changed again, counts from when it is found.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection

import structlog

from connectors.alias import Alias
from connectors.index import Index
from models.ids import index_name
from syncline.running_index import RunningIndex

_log = structlog.get_logger("syncline")

NOT_OURS = math.inf
"""Since when a collection is retired that no recipe of ours names: it is never removed."""


class RetiredIndexes:
    """Those behind one alias. One caller at a time, but for `names`."""

    def __init__(self, alias: Alias, grace_seconds: float) -> None:
        self._alias = alias
        self._grace_seconds = grace_seconds
        self._since: dict[str, float] = {}
        self._open: dict[str, RunningIndex] = {}

    @property
    def names(self) -> list[str]:
        """The collections that wait for their removal."""
        return sorted(name for name, since in self._since.items() if since != NOT_OURS)

    def add(self, running: RunningIndex) -> None:
        """This one, whose flow has ended, serves no longer. It is closed once it is unused."""
        now = time.time()
        self._open[running.name] = running
        self._since = {**self._since, running.name: now}
        running.index.retire(now)

    def take_back(self, name: str, closing: threading.Lock) -> bool:
        """It is wanted again; False while requests are still answered from it."""
        self._close_unused(closing)
        if name in self._open:
            return False
        self._since = {k: v for k, v in self._since.items() if k != name}
        return True

    def clear(self, kept: Collection[str], closing: threading.Lock) -> None:
        """Remove what has been retired for long enough, of all that is not `kept`."""
        self._close_unused(closing)
        found = [name for name in self._alias.collections() if name not in kept]
        since = {name: self._since.get(name) or self._read(name) for name in found}
        for name in found:
            if name not in self._open and time.time() - since[name] >= self._grace_seconds:
                self._alias.remove(name)
                _log.info("index_removed", collection=name)
                del since[name]
        self._since = since

    def close(self) -> None:
        """Close those that are still open."""
        for running in self._open.values():
            running.index.store.close()
        self._open = {}

    def _close_unused(self, closing: threading.Lock) -> None:
        for name, running in [*self._open.items()]:
            if running.unused.is_set():
                with closing:
                    running.index.store.close()
                del self._open[name]

    def _read(self, name: str) -> float:
        store = self._alias.open(name)
        try:
            index = Index(store)
            recipe = index.recipe()
            if recipe is None or index_name(self._alias.name, recipe) != name:
                return NOT_OURS
            since = index.retired()
            if since is None:
                since = time.time()
                index.retire(since)
            return since
        finally:
            store.close()
