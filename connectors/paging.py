"""How many documents a source hands over at once, from how long the work on them takes."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_DOCUMENTS = 8
"""Nothing is known yet, and a document may be a thousand chunks."""
AIM_SECONDS = (0.25, 0.5)
"""A change that arrives waits for the page in work: half a second is bearable, and a quarter is
long enough for full embedding batches."""


class PageSize:
    """Doubles while pages are full and their work is short, halves when it is long."""

    def __init__(self, max_documents: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max = max_documents
        self._clock = clock
        self._taken_at: float | None = None
        self._full = False
        self.documents = min(FIRST_DOCUMENTS, max_documents)

    def took(self, documents: int) -> None:
        """A page of so many documents is handed over now."""
        self._taken_at = self._clock() if documents else None
        self._full = documents >= self.documents

    def returned(self) -> None:
        """The source was asked again: the work on the page is done."""
        if self._taken_at is None:
            return
        seconds, self._taken_at = self._clock() - self._taken_at, None
        shortest, longest = AIM_SECONDS
        if seconds > longest:
            self.documents = max(1, self.documents // 2)
        elif seconds < shortest and self._full:
            self.documents = min(self._max, self.documents * 2)
