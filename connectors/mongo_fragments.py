"""Change events that the server had to split (`$changeStreamSplitLargeEvent`), made whole. No I/O.

An event with its document may be larger than a reply. MongoDB from 6.0.9 on then sends it in
fragments, each with a resume token of its own and with other top-level fields than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Whole(NamedTuple):
    """An event, and how many bytes of BSON it came in."""

    event: dict[str, Any]
    size: int


class Fragments:
    """Collects the fragments of one event. Memory: that event."""

    def __init__(self) -> None:
        self._event: dict[str, Any] = {}
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: its place is not to be left before it has."""
        return bool(self._event)

    def clear(self) -> None:
        """The stream broke: after the last whole event, all fragments come again."""
        self._event, self._size = {}, 0

    def add(self, event: Mapping[str, Any], size: int) -> Whole | None:
        """The event that this fragment completes, with the last one's token, which is behind all
        of them; the event itself if it is not split; None while more is to come."""
        self._event |= event
        self._size += size
        part = self._event.pop("splitEvent", None)
        if part is not None and part["fragment"] < part["of"]:
            return None
        whole = Whole(self._event, self._size)
        self.clear()
        return whole
