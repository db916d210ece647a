"""A queue between a thread that waits for a server and a source that never waits."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

_T = TypeVar("_T")

ITEM_BYTES = 1_000
"""What an item costs beside its document: Python objects, an id, a version."""


class Inbox(Generic[_T]):
    """First in, first out, bounded by bytes; the writer waits for room, the reader never waits."""

    def __init__(self, max_bytes: int) -> None:
        self._items: deque[tuple[_T, int]] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._room = threading.Condition()
        self._closed = False

    def put(self, item: _T, size: int = 0) -> bool:
        """Append `item` of `size` bytes when there is room (always, if the queue is empty).

        False: the inbox is closed, nobody will read.
        """
        cost = size + ITEM_BYTES
        with self._room:
            self._room.wait_for(
                lambda: self._closed or not self._items or self._bytes + cost <= self._max_bytes
            )
            if not self._closed:
                self._items.append((item, cost))
                self._bytes += cost
            return not self._closed

    def put_latest(self, item: _T) -> bool:
        """As `put`, in place of the last item if that is of the same class."""
        with self._room:
            if self._items and type(self._items[-1][0]) is type(item):
                self._items[-1] = (item, self._items[-1][1])
                return not self._closed
        return self.put(item)

    def take(self, max_items: int, max_bytes: int) -> list[_T]:
        """What has arrived: at most `max_items`, and `max_bytes` unless the first is larger."""
        taken: list[_T] = []
        total = 0
        with self._room:
            while self._items and len(taken) < max_items:
                total += self._items[0][1]
                if taken and total > max_bytes:
                    break
                item, cost = self._items.popleft()
                self._bytes -= cost
                taken.append(item)
            self._room.notify_all()
        return taken

    def clear(self) -> None:
        """Throw away what has arrived."""
        with self._room:
            self._items.clear()
            self._bytes = 0
            self._room.notify_all()

    def close(self) -> None:
        """Nobody reads any more: a waiting writer returns."""
        with self._room:
            self._closed = True
            self._room.notify_all()

    def __len__(self) -> int:
        return len(self._items)
