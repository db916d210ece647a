"""Which index answers: a request takes one, with its model, and keeps it until it is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from models.records import Entry, Timestamp
from retriever.records import DocumentView, SearchRequest, SearchResponse
from retriever.search import Retriever
from syncline.errors import Unavailable


class _Served:
    """A retriever, and how many requests it is answering."""

    def __init__(self, retriever: Retriever, when_free: Callable[[], object]) -> None:
        self.retriever = retriever
        self.when_free = when_free
        self.requests = 0
        self.replaced = False


class Serving:
    """Passes requests to one retriever, which another replaces between two requests.

    Raises `Unavailable` until there is one. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: _Served | None = None

    def switch(self, retriever: Retriever, when_free: Callable[[], object]) -> None:
        """From now on requests go to `retriever`.

        `when_free` is called once another has replaced it and its last request is answered.
        """
        with self._lock:
            before, self._now = self._now, _Served(retriever, when_free)
            if before is not None:
                before.replaced = True
        if before is not None and not before.requests:
            before.when_free()

    @contextmanager
    def taken(self) -> Iterator[Retriever]:
        """The retriever of now, which stays usable throughout the context."""
        with self._lock:
            served = self._now
            if served is None:
                raise Unavailable("index", "it is not open yet")
            served.requests += 1
        try:
            yield served.retriever
        finally:
            with self._lock:
                served.requests -= 1
                is_free = served.replaced and not served.requests
            if is_free:
                served.when_free()

    def search(self, request: SearchRequest) -> SearchResponse:
        """See `Retriever.search`."""
        with self.taken() as retriever:
            return retriever.search(request)

    def watermark(self) -> Timestamp:
        """See `Retriever.watermark`."""
        with self.taken() as retriever:
            return retriever.watermark()

    def document(self, collection: str, id_text: str) -> DocumentView | None:
        """See `Retriever.document`."""
        with self.taken() as retriever:
            return retriever.document(collection, id_text)

    def failed(self, limit: int) -> Sequence[Entry]:
        """See `Index.failed`."""
        with self.taken() as retriever:
            return retriever.index.failed(limit)
