"""What flows through Syncline: changes, documents, blocks, chunks, entries, positions.

All records are frozen. A *change* is one event about one document (or one collection), with a
*version*; the *entry* is what the index knows about one source document; a *position* says where
the source reads next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

ALL_COLLECTIONS = "*"
"""The collection name of a floor that holds for every collection (never a MongoDB name)."""
UNREAD = "$messages"
"""The collection name of entries that stand for no document, but for a message that could not be
read (never a MongoDB name)."""


class Version(NamedTuple):
    """`(seconds, increment)` of cluster time, and n-th event of that cluster time.

    Compared as a tuple in code and stored as three integers: Qdrant compares ranges as 64-bit
    floats, in which a packed integer would lose its low bits.
    """

    seconds: int
    increment: int
    n: int = 0


class Timestamp(NamedTuple):
    """A cluster time, without the count within it. `str()` gives `"<seconds>.<increment>"`."""

    seconds: int
    increment: int

    def __str__(self) -> str:
        return f"{self.seconds}.{self.increment}"

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Inverse of `str()`. Raises `ValueError` if it is none."""
        seconds, dot, increment = text.partition(".")
        if not (dot and _is_number(seconds) and _is_number(increment)):
            raise ValueError(f'{text[:40]!r} is no cluster time "<seconds>.<increment>"')
        return cls(int(seconds), int(increment))


def _is_number(text: str) -> bool:
    """32 bits in decimal digits, as MongoDB's timestamps have."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**32


class Record(BaseModel):
    """Base of all records: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Key(NamedTuple):
    """Names one source document: collection and `_id` as canonical JSON (see `models.ids`)."""

    collection: str
    id: str


# --- changes ----------------------------------------------------------------------------------


class Share(NamedTuple):
    """The documents that one flow answers for: those of a partition (see `ids.partition_of`)."""

    partition: int = 0
    of: int = 1


WHOLE = Share()
"""All documents: what the direct flow answers for."""


class Upsert(Record):
    """A document as it is at (or after) `version`. `fields` is the BSON document as read."""

    key: Key
    version: Version
    fields: Mapping[str, Any]
    snapshot: bool = False
    """Found by a snapshot's cursor, which has no place in the order of the stream."""


class Delete(Record):
    """A document that is gone at `version`."""

    key: Key
    version: Version


class Floor(Record):
    """Below `version` nothing of `collection` counts any more (drop, rename, new snapshot).

    A collection's own floor hides what lies below it at once; the floor of `ALL_COLLECTIONS`
    stands for a new snapshot: it guards, and hides nothing until it is swept.
    """

    collection: str
    version: Version
    generation: int = 0
    """Of `ALL_COLLECTIONS`: the generation that begins with it."""


Change = Upsert | Delete | Floor


# --- documents --------------------------------------------------------------------------------

ContentType = Literal["text", "markdown", "html", "pdf", "docx"]
Scalar = str | int | float | bool


class Part(Record):
    """One piece of a document's content: text, or the bytes of a binary format."""

    content_type: ContentType
    content: str | bytes


class Document(Record):
    """What the mapping makes of a MongoDB document."""

    key: Key
    title: str
    parts: tuple[Part, ...]
    metadata: Mapping[str, Any]
    """JSON values only: scalars, lists of scalars, objects of these. Dates are RFC 3339 UTC."""


class Block(Record):
    """One structural piece of cleaned text: a heading, paragraph, list item, table or code."""

    kind: Literal["heading", "paragraph", "list_item", "table", "code"]
    text: str
    level: int = 0
    """Heading level 1..6, nesting depth (0..) of a list item, else 0."""


class Chunk(Record):
    """A piece of a document, as long as the model can read at once."""

    text: str
    """What people see."""
    input: str
    """Exactly what the models read, dense and sparse: `text`, the title before the first."""
    headings: tuple[str, ...] = ()
    """The headings above this chunk, outermost first: payload, never model input."""


# --- what the steps make of a change ------------------------------------------------------------


class Failure(Record):
    """Why the newest version of a document is not in the index."""

    step: str
    reason: str
    attempts: int = 1


class Revision(Record):
    """A document on its way into the index; each step fills in what it knows."""

    key: Key
    version: Version
    document: Document
    digest: str
    metadata_digest: str
    skip: bool = False
    """Its text is as its entry knows it, so it need not be cleaned and chunked."""
    blocks: tuple[Block, ...] | None = None
    chunks: tuple[Chunk, ...] | None = None


class Removal(Record):
    """A document that is to leave the index: deleted, or no longer included."""

    key: Key
    version: Version


class Failed(Record):
    """A document whose newest version could not be prepared."""

    key: Key
    version: Version
    failure: Failure


Item = Revision | Removal | Failed | Floor
"""What the steps hand on."""


# --- what the index knows ---------------------------------------------------------------------


class Entry(Record):
    """What the index knows about one source document: the commit of its last change."""

    key: Key
    version: Version
    state: Literal["indexed", "deleted", "failed"]
    digest: str = ""
    """Of title and content: equal means that its chunks are the same."""
    metadata_digest: str = ""
    chunks: tuple[str, ...] = ()
    """Point ids of its chunks, in order. A chunk that is not listed here does not exist."""
    title: str = ""
    failure: Failure | None = None
    rewriting: Version | None = None
    """A change of this version has begun to rewrite what its chunks carry. Until one as new has
    gone over all of them, the digests are empty, so that none is taken for unchanged."""


class Cursor(Record):
    """How far the snapshot of one collection has been read; `last_id` is canonical JSON."""

    collection: str
    version: Version
    last_id: str | None = None


class Position(Record):
    """Where the source reads next, and up to where the index reflects the database."""

    generation: int = 1
    """Counts snapshots of the whole: 1 for the first."""
    scope: str
    """Fingerprint of what is read and how it is mapped; another one needs a new snapshot."""
    start: Version
    """The cluster time from which the stream is opened while there is no token."""
    token: str | None = None
    """Resume token of the change stream, as canonical JSON; always used with startAfter."""
    last: Version | None = None
    """Version of the last event behind `token`; `n` goes on counting from it."""
    cursors: tuple[Cursor, ...] = ()
    """Collections whose snapshot is not finished. Empty: the backfill is done."""
    watermark: Timestamp | None = None
    beat: int = 0
    """Number of the heartbeat that told of this position, over Pulsar."""


class Mark(Record):
    """Up to where the index reflects the database in one partition of the topic it is fed from."""

    partition: int
    of: int
    generation: int
    beat: int = 0
    """Number of the heartbeat; 0 for the floor that begins the generation."""
    watermark: Timestamp | None
    """None while a snapshot runs."""


class Advance(NamedTuple):
    """A mark, and what the one before it must be: else something between them is missing."""

    mark: Mark
    after: int = 0
    """The mark before is of the same generation, and of this heartbeat or a later one."""
    begins: bool = False
    """Nothing need be before it: all of its generation stands behind it."""


class Recipe(Record):
    """What an index is made of. Another recipe is another index."""

    model: str
    dimension: int
    max_tokens: int
    chunker: str
    codec: int
    load: str = ""
    """What `embedder.model` said, to find the model again: a path is another on each machine, so it
    is no part of what recipes are compared by."""


class Retired(Record):
    """Since when an index no longer serves, in seconds of Unix time."""

    at: float


class Rules(Record):
    """By which mapping an index that a topic feeds was last known to be in line."""

    fingerprint: str


class ChunkPoint(Record):
    """A chunk as it is stored, with its vectors."""

    id: str
    key: Key
    version: Version
    """Of the change that writes it."""
    hash: str
    chunk: Chunk
    dense: Any
    """(dimension,) float32, L2 norm 1."""
    sparse: tuple[tuple[int, ...], tuple[float, ...]]
    metadata: Mapping[str, Any]
