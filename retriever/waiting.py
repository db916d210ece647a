"""Read your writes: a search that names a moment waits until the index has reached it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from starlette.concurrency import run_in_threadpool

from models.records import Timestamp
from retriever.records import SearchRequest, SearchResponse
from syncline.errors import SynclineError

POLL_SECONDS = 0.02
"""Between two looks at the watermark. All that wait share one look."""


class Behind(SynclineError):
    """The index has not reached the moment that was asked for in the time that was given."""

    def __init__(self, reached: Timestamp) -> None:
        super().__init__(f"the index is as of {reached}")


class Searches(Protocol):
    """Answers searches, and tells as of when it would do so now."""

    def search(self, request: SearchRequest) -> SearchResponse: ...

    def watermark(self) -> Timestamp: ...


class Waiting:
    """Passes searches on, in a thread pool; waits without a thread. Used on one event loop."""

    def __init__(self, searches: Searches) -> None:
        self._searches = searches
        self._turn = asyncio.Lock()
        self._seen = Timestamp(0, 0)
        self._looked_at = -POLL_SECONDS

    async def search(self, request: SearchRequest) -> SearchResponse:
        """An answer that is as of `request.after` or later.

        Raises `Behind` after `request.wait_seconds`, and what the search raises.
        """
        deadline = time.monotonic() + request.wait_seconds
        moment = Timestamp.parse(request.after or "0.0")
        while True:
            await self._until(moment, deadline)
            found = await run_in_threadpool(self._searches.search, request)
            # While a collection is dropped, the watermark may be unknown for a moment.
            if Timestamp.parse(found.as_of) >= moment:
                return found

    async def _until(self, moment: Timestamp, deadline: float) -> None:
        if moment == (0, 0):
            return
        while (reached := await self._look(time.monotonic())) < moment:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Behind(reached)
            await asyncio.sleep(min(POLL_SECONDS, left))

    async def _look(self, asked_at: float) -> Timestamp:
        async with self._turn:
            if self._looked_at + POLL_SECONDS <= asked_at:
                began = time.monotonic()
                self._seen = await run_in_threadpool(self._searches.watermark)
                self._looked_at = began
            return self._seen
