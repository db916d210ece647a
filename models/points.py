"""The one codec between records and the points of an index: writer and reader share it.

A chunk follows LangChain's Qdrant layout (`page_content`, `metadata`), so that existing readers
work as they are; everything of ours stands under the key `syncline`. Entries, floors, the
position and the recipe are vectorless points of the same collection: one collection to back up,
one to restore, one to move an alias to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from models.conditions import All, Condition, Either, Match, Path, Range
from models.ids import key_text, public_id
from models.records import (
    ChunkPoint,
    Entry,
    Failure,
    Floor,
    Key,
    Position,
    Recipe,
    Version,
)

CODEC_VERSION = 1
OWN = "syncline"
"""The payload key under which all fields of ours stand."""

INDEXED_FIELDS: Mapping[Path, str] = {
    (OWN, "kind"): "keyword",
    (OWN, "key"): "keyword",
    (OWN, "collection"): "keyword",
    (OWN, "document_id"): "keyword",
    (OWN, "hash"): "keyword",
    (OWN, "state"): "keyword",
    (OWN, "version", "seconds"): "integer",
    (OWN, "version", "increment"): "integer",
    (OWN, "version", "n"): "integer",
}
"""Every field of ours that is filtered or deleted by. Metadata fields are indexed as they come."""

Payload = dict[str, Any]


class StoredChunk(NamedTuple):
    """A chunk as it is read back from the index, without its vectors."""

    id: str
    key: Key
    hash: str
    text: str
    headings: tuple[str, ...]
    metadata: Mapping[str, Any]


def chunk_payload(point: ChunkPoint) -> Payload:
    """The payload of a chunk."""
    return {
        "page_content": point.chunk.text,
        "metadata": dict(point.metadata),
        OWN: own_chunk_payload(point.key, point.hash, point.chunk.headings),
    }


def own_chunk_payload(key: Key, input_hash: str, headings: tuple[str, ...]) -> Payload:
    """What stands under our own key of a chunk."""
    return {**_identity("chunk", key), "hash": input_hash, "headings": list(headings)}


def read_chunk(point_id: str, payload: Mapping[str, Any]) -> StoredChunk:
    """Inverse of `chunk_payload`; keys that were not fetched read as empty."""
    own = payload[OWN]
    return StoredChunk(
        id=point_id,
        key=_read_key(own),
        hash=own["hash"],
        text=payload.get("page_content", ""),
        headings=tuple(own["headings"]),
        metadata=payload.get("metadata") or {},
    )


def entry_payload(entry: Entry) -> Payload:
    """The payload of a document's entry."""
    failure = entry.failure.model_dump() if entry.failure else None
    return {
        OWN: {
            **_identity("entry", entry.key),
            "version": entry.version._asdict(),
            "state": entry.state,
            "digest": entry.digest,
            "metadata_digest": entry.metadata_digest,
            "chunks": list(entry.chunks),
            "title": entry.title,
            "failure": failure,
        }
    }


def read_entry(payload: Mapping[str, Any]) -> Entry:
    """Inverse of `entry_payload`."""
    own = payload[OWN]
    return Entry(
        key=_read_key(own),
        version=Version(**own["version"]),
        state=own["state"],
        digest=own["digest"],
        metadata_digest=own["metadata_digest"],
        chunks=tuple(own["chunks"]),
        title=own["title"],
        failure=Failure(**own["failure"]) if own.get("failure") else None,
    )


def floor_payload(floor: Floor) -> Payload:
    """The payload of a floor."""
    own = {
        "kind": "floor",
        "collection": floor.collection,
        "version": floor.version._asdict(),
        "swept": floor.swept,
    }
    return {OWN: own}


def read_floor(payload: Mapping[str, Any]) -> Floor:
    """Inverse of `floor_payload`."""
    own = payload[OWN]
    return Floor(
        collection=own["collection"], version=Version(**own["version"]), swept=own["swept"]
    )


def single_payload(kind: str, record: Position | Recipe) -> Payload:
    """The payload of something there is one of."""
    return {OWN: {"kind": kind, "record": record.model_dump(mode="json")}}


def read_position(payload: Mapping[str, Any]) -> Position:
    """The position in a point of kind `position`."""
    return Position.model_validate(payload[OWN]["record"])


def read_recipe(payload: Mapping[str, Any]) -> Recipe:
    """The recipe in a point of kind `recipe`."""
    return Recipe.model_validate(payload[OWN]["record"])


def filter_path(field: str) -> Path:
    """Where a field of a search's filter stands in a chunk's payload."""
    if field in ("collection", "document_id"):
        return (OWN, field)
    return ("metadata", *field.split("."))


def of_kind(kind: str, *conditions: Condition) -> All:
    """Points of one kind for which all conditions hold."""
    return All(conditions=(Match(path=(OWN, "kind"), values=(kind,)), *conditions))


def of_keys(keys: tuple[Key, ...]) -> Match:
    """Points that belong to one of these documents."""
    return Match(path=(OWN, "key"), values=tuple(key_text(key) for key in keys))


def in_collection(collection: str) -> Match:
    """Points that belong to a collection."""
    return Match(path=(OWN, "collection"), values=(collection,))


def older_than(version: Version) -> Either:
    """The stored version is strictly older: compared field by field, as integers."""
    return _before(version, inclusive=False)


def not_newer_than(version: Version) -> Either:
    """The stored version is older or equal: the guard of every entry that is written."""
    return _before(version, inclusive=True)


def _before(version: Version, *, inclusive: bool) -> Either:
    seconds, increment, n = ((OWN, "version", name) for name in Version._fields)
    same_second = Match(path=seconds, values=(version.seconds,))
    same_increment = Match(path=increment, values=(version.increment,))
    last = Range(path=n, lte=version.n) if inclusive else Range(path=n, lt=version.n)
    return Either(
        conditions=(
            Range(path=seconds, lt=version.seconds),
            All(conditions=(same_second, Range(path=increment, lt=version.increment))),
            All(conditions=(same_second, same_increment, last)),
        )
    )


def _identity(kind: str, key: Key) -> Payload:
    return {
        "kind": kind,
        "key": key_text(key),
        "collection": key.collection,
        "document_id": public_id(key),
    }


def _read_key(own: Mapping[str, Any]) -> Key:
    collection: str = own["collection"]
    return Key(collection, own["key"][len(collection) + 1 :])
