"""The one codec between records and the points of an index: writer and reader share it.

A chunk follows LangChain's Qdrant layout (`page_content`, `metadata`), so that existing readers
work as they are; everything of ours stands under the key `syncline`. Entries, floors, the
position and the recipe are vectorless points of the same collection: one collection to back up,
one to restore, one to move an alias to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from models.conditions import All, Condition, Either, Match, Not, Path, Range
from models.ids import digest, key_text, public_id
from models.records import (
    Advance,
    ChunkPoint,
    Entry,
    Failure,
    Floor,
    Key,
    Mark,
    Position,
    Recipe,
    Retired,
    Rules,
    Timestamp,
    Version,
)

CODEC_VERSION = 2
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
"""Every field of ours by which points are found. Metadata fields are indexed as they come. What
guards the write of a point that is named by its id needs no index, and has none: `written` of
every chunk and `etag` of every entry would cost memory for nothing."""

KINDS = tuple("chunk entry floor feed mark position probe recipe retired swept".split())
"""Every kind of point that an index holds."""
FOREIGN = Not(condition=Match(path=(OWN, "kind"), values=KINDS))
"""Points that are none of ours."""

Payload = dict[str, Any]
Swept = Literal["passed", "expired"]
"""What a share has swept below a floor: once as the watermark passed it, and as it expired."""


class StoredChunk(NamedTuple):
    """A chunk as it is read back from the index, without its vectors."""

    id: str
    key: Key
    version: Version
    """Of the change that last wrote it or made sure of it."""
    hash: str
    text: str
    headings: tuple[str, ...]
    metadata: Mapping[str, Any]


def chunk_payload(point: ChunkPoint) -> Payload:
    """The payload of a chunk."""
    return {
        "page_content": point.chunk.text,
        "metadata": dict(point.metadata),
        OWN: own_chunk_payload(point.key, point.version, point.hash, point.chunk.headings),
    }


def own_chunk_payload(
    key: Key, version: Version, input_hash: str, headings: tuple[str, ...]
) -> Payload:
    """What stands under our own key of a chunk."""
    written = version._asdict()
    own = {**_identity("chunk", key), "hash": input_hash, "headings": list(headings)}
    return {**own, "written": written}


def read_chunk(point_id: str, payload: Mapping[str, Any]) -> StoredChunk:
    """Inverse of `chunk_payload`; keys that were not fetched read as empty."""
    own = payload[OWN]
    return StoredChunk(
        id=point_id,
        key=_read_key(own),
        version=Version(**own["written"]),
        hash=own["hash"],
        text=payload.get("page_content", ""),
        headings=tuple(own["headings"]),
        metadata=payload.get("metadata") or {},
    )


def entry_payload(entry: Entry) -> Payload:
    """The payload of a document's entry."""
    own = {
        **_identity("entry", entry.key),
        "version": entry.version._asdict(),
        "state": entry.state,
        "digest": entry.digest,
        "metadata_digest": entry.metadata_digest,
        "chunks": list(entry.chunks),
        "title": entry.title,
        "failure": entry.failure.model_dump() if entry.failure else None,
        "rewriting": entry.rewriting._asdict() if entry.rewriting else None,
    }
    return {OWN: {**own, "etag": digest(json.dumps(own, sort_keys=True))}}


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
        rewriting=Version(**own["rewriting"]) if own.get("rewriting") else None,
    )


def floor_payload(floor: Floor) -> Payload:
    """The payload of a floor."""
    own = {
        "kind": "floor",
        "collection": floor.collection,
        "version": floor.version._asdict(),
        "swept": {},
    }
    return {OWN: own}


def read_floor(payload: Mapping[str, Any]) -> Floor:
    """Inverse of `floor_payload`."""
    own = payload[OWN]
    return Floor(collection=own["collection"], version=Version(**own["version"]))


def read_swept(payload: Mapping[str, Any]) -> Mapping[str, Swept]:
    """How far each share, by name, has swept below a floor since it was put."""
    swept: Mapping[str, Swept] = payload[OWN].get("swept", {})
    return swept


def mark_payload(mark: Mark) -> Payload:
    """The payload of a partition's mark."""
    own = {"generation": mark.generation, "of": mark.of, "beat": mark.beat}
    return {OWN: {"kind": "mark", **own, "record": mark.model_dump(mode="json")}}


def read_mark(payload: Mapping[str, Any]) -> Mark:
    """Inverse of `mark_payload`."""
    return Mark.model_validate(payload[OWN]["record"])


def feed_payload(partitions: int) -> Payload:
    """The payload of the point that says that a topic of so many partitions feeds the index."""
    return {OWN: {"kind": "feed", "partitions": partitions}}


def read_feed(payload: Mapping[str, Any]) -> int:
    """Inverse of `feed_payload`."""
    partitions: int = payload[OWN]["partitions"]
    return partitions


def single_payload(kind: str, record: Position | Recipe | Retired | Rules) -> Payload:
    """The payload of something there is one of."""
    return {OWN: {"kind": kind, "record": record.model_dump(mode="json")}}


def read_position(payload: Mapping[str, Any]) -> Position | None:
    """The position in a point of kind `position`; None if it is none that we can read."""
    try:
        return Position.model_validate(payload[OWN].get("record"))
    except ValidationError:
        return None


def read_recipe(payload: Mapping[str, Any]) -> Recipe:
    """The recipe in a point of kind `recipe`."""
    return Recipe.model_validate(payload[OWN]["record"])


def read_retired(payload: Mapping[str, Any]) -> Retired:
    """Since when an index no longer serves, in a point of kind `retired`."""
    return Retired.model_validate(payload[OWN]["record"])


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
    """The version of the entry or floor is strictly older."""
    return _before("version", version, inclusive=False)


def not_newer_than(version: Version) -> Either:
    """The version of the floor is older or equal."""
    return _before("version", version, inclusive=True)


def is_floor_at(version: Version) -> All:
    """The floor is still the one of this version."""
    return All(conditions=(not_newer_than(version), Not(condition=older_than(version))))


def has_swept(share: str) -> Match:
    """The share has swept once more below the floor, since it expired."""
    return Match(path=(OWN, "swept", share), values=("expired",))


def floors_after(watermark: Timestamp) -> All:
    """Floors that the watermark has not passed."""
    passed = not_newer_than(Version(*watermark, n=2**31))
    return of_kind("floor", Not(condition=passed))


def written_before(version: Version) -> Either:
    """The chunk was last written by a strictly older change."""
    return _before("written", version, inclusive=False)


def written_up_to(version: Version) -> Either:
    """The chunk was last written by an older or equal change."""
    return _before("written", version, inclusive=True)


def one_of(entries: Iterable[Entry]) -> Match:
    """The point is still one of these entries, in every field of it.

    An etag names the document too, so one condition does for many entries at once.
    """
    etags = tuple(entry_payload(entry)[OWN]["etag"] for entry in entries)
    return Match(path=(OWN, "etag"), values=etags)


def not_beyond(mark: Mark) -> Either:
    """The mark is of another number of partitions, or not further than this one."""
    generation = (OWN, "generation")
    same = Match(path=generation, values=(mark.generation,))
    return Either(
        conditions=(
            Not(condition=Match(path=(OWN, "of"), values=(mark.of,))),
            Range(path=generation, lt=mark.generation),
            All(conditions=(same, Range(path=(OWN, "beat"), lte=mark.beat))),
        )
    )


def continues(advance: Advance) -> All:
    """The mark is one that this one follows without a gap, and not beyond it."""
    mark = advance.mark
    same = (
        Match(path=(OWN, name), values=(value,))
        for name, value in (("of", mark.of), ("generation", mark.generation))
    )
    reached = Range(path=(OWN, "beat"), gte=advance.after)
    return All(conditions=(*same, reached, not_beyond(mark)))


def _before(field: str, version: Version, *, inclusive: bool) -> Either:
    """Compared number by number, as integers."""
    seconds, increment, n = ((OWN, field, name) for name in Version._fields)
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
    collection, text = own["collection"], own["key"]
    if not text.startswith(f"{collection}/"):  # damaged: it is found by its key
        collection = text.partition("/")[0]
    return Key(collection, text[len(collection) + 1 :])
