"""What a comparison of index and database found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from models.ids import public_id
from models.records import Key, Record

Kind = Literal[
    "missing", "stale", "orphaned_document", "missing_chunk", "orphaned_chunk", "miscounted"
]
MAX_EXAMPLES = 20
"""Of each kind: enough to see what they have in common."""


class Drift(Record):
    """One way in which the index differs from the database for one document.

    `missing`: the newest version of the document is not recorded at all. `stale`: what is stored
    is not what the document says. `orphaned_document`: the document is gone or excluded.
    `missing_chunk`: the entry lists chunks that are not stored. `orphaned_chunk`: chunks are
    stored that no entry lists (invisible to searches). `miscounted`: nothing differs, yet the
    counts do, which only a damaged store explains; it belongs to no document.
    """

    kind: Kind
    collection: str
    document_id: str
    detail: str


class VerifyReport(Record):
    """The result of `verify`; after a repair, of the comparison that followed it."""

    in_sync: bool
    documents: int
    """Documents read from the database, excluded ones too."""
    entries: int
    """Documents that the index holds, failed ones too."""
    chunks: int
    """Chunk points that the index holds."""
    failed: int
    """Documents whose newest version cannot be indexed: recorded, and no drift."""
    unread: int
    """Messages from the topic that could not be read: what they said is not known."""
    counts: Mapping[str, int]
    """Drift that remains: documents by kind; one may count under several kinds."""
    examples: tuple[Drift, ...]
    """Of the drift that remains, at most `MAX_EXAMPLES` of each kind."""
    found: Mapping[str, int]
    """Drift by kind before any repair."""
    deep: bool
    repaired: int
    """Documents that differed before the repair and no longer do."""
    orphaned_chunks: int
    """Chunk points that no entry lists, before any repair: what searches pass over."""
    unsettled: int
    """Documents that changed, and were indexed again, each time they were looked at."""
    took_seconds: float
    as_of: str | None
    """The watermark at the end, `"<seconds>.<increment>"`; None before the first backfill."""


class Tally:
    """Counts drift as it is found, keeping few examples."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.remaining: Counter[str] = Counter()
        self.examples: list[Drift] = []
        self.documents = 0
        self.included = 0
        self.repaired = 0
        self.orphaned_chunks = 0
        self.unsettled = 0

    def add_found(self, drifts: Iterable[Drift]) -> None:
        """Drift before a repair."""
        self.found.update(drift.kind for drift in drifts)

    def add_remaining(self, drifts: Iterable[Drift]) -> None:
        """Drift that is not repaired."""
        for drift in drifts:
            if self.remaining[drift.kind] < MAX_EXAMPLES:
                self.examples.append(drift)
            self.remaining[drift.kind] += 1


def drift_of(key: Key, kind: Kind, detail: str) -> Drift:
    """Drift of one document."""
    return Drift(kind=kind, collection=key.collection, document_id=public_id(key), detail=detail)
