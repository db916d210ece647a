"""One look at some documents: what the database says now, and how the index differs.

A look takes no lock, so writers and the flow may move both sides under it: what it finds is a
suspicion, which `verify_settle` confirms or drops. Documents are read before their entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from connectors.index import Index
from connectors.mongo_reader import BATCH_DOCUMENTS, DocumentReader
from connectors.store import Stored
from flows.verify_report import Drift, Kind, drift_of
from flows.verify_vectors import without_vector
from models.ids import decode_id, key_of, key_text
from models.points import OWN, Payload, of_keys, of_kind, own_chunk_payload
from models.records import (
    Change,
    Chunk,
    Entry,
    Failed,
    Floor,
    Item,
    Key,
    Removal,
    Revision,
    Timestamp,
    Upsert,
    Version,
)
from syncline.errors import Stopped
from transforms.plan import identify

Known = Revision | Removal | Failed
"""What the database says of a document; `Removal`: it is gone or excluded."""


class Steps(Protocol):
    """The steps before the apply step, as `flows.steps.Steps` has them."""

    def map_change(self, change: Change) -> Item:
        """One change, mapped."""

    def prepare(self, revision: Revision) -> Revision | Failed:
        """Clean and chunk one revision."""


class Finding(NamedTuple):
    """A document for which index and database differ."""

    key: Key
    drifts: tuple[Drift, ...]
    seen: tuple[str, ...]
    """Fingerprint of what the database said: equal means that it did not change."""
    version: Version | None
    """Of its entry, if there is one."""
    stray: tuple[str, ...]
    """Its chunk points that no entry lists, sorted."""
    rewrites: Mapping[str, Payload]
    """Top-level payload keys of chunk points that the apply step takes for granted."""
    blind: tuple[str, ...]
    """Its chunk points without a usable vector, which the apply step takes for embedded."""


@dataclass
class _Pair:
    """Both sides of one document."""

    item: Known
    entry: Entry | None
    hidden: bool
    """The entry is below its collection's floor: readers do not see it, a sweep removes it."""
    ahead: bool = False
    """The entry claims a version that the database has not reached: every change is older."""
    chunks: Mapping[str, tuple[str, Chunk]] | None = None
    """Chunk id -> (hash, chunk), in order, as the text gives them; None where not chunked."""
    stored: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    rewrites: dict[str, Payload] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)

    @property
    def listed(self) -> tuple[str, ...]:
        return self.entry.chunks if self.entry else ()


class Comparison:
    """Looks at documents in batches; holds one batch at a time in memory."""

    def __init__(
        self,
        index: Index,
        reader: DocumentReader,
        steps: Steps,
        *,
        deep: bool,
        stop: Callable[[float], bool],
    ) -> None:
        self.index = index
        self.reader = reader
        self.steps = steps
        self.deep = deep
        self._stop = stop
        self._noted = Timestamp(0, 0)

    def note_time(self) -> Timestamp:
        """The database's time, now."""
        self._noted = self.reader.cluster_time()
        return self._noted

    def is_ahead(self, entry: Entry) -> bool:
        """Whether an entry that was read before this call is newer than the database is now."""
        at = entry.version[:2]
        return at > self._noted and at > self.note_time()

    def pause_point(self, seconds: float = 0.0) -> None:
        """Wait for `seconds`. Raises `Stopped` as soon as a stop is asked for."""
        if self._stop(seconds):
            raise Stopped("the comparison was stopped")

    def map(self, collection: str, batch: Iterable[Mapping[str, Any]]) -> list[Known]:
        """What these documents are to be. Their version stays unset: it plays no part here."""
        return [self.map_one(key_of(collection, d["_id"]), d, Version(0, 0)) for d in batch]

    def map_one(self, key: Key, fields: Mapping[str, Any], version: Version) -> Known:
        """What one document is to be."""
        item = self.steps.map_change(Upsert(key=key, version=version, fields=fields))
        if isinstance(item, Floor):
            raise TypeError(f"{key} was mapped to a floor")
        return item

    def look(self, keys: Iterable[Key]) -> Iterator[Finding]:
        """Read these documents anew and examine them, gone ones too."""
        for collection, group in by_collection(keys).items():
            for start in range(0, len(group), BATCH_DOCUMENTS):
                wanted = set(group[start : start + BATCH_DOCUMENTS])
                for batch in self.reader.find_many(collection, bson_ids(wanted)):
                    items = [i for i in self.map(collection, batch) if i.key in wanted]
                    wanted -= {item.key for item in items}
                    yield from self.examine(items)
                yield from self.examine([Removal(key=k, version=Version(0, 0)) for k in wanted])

    def examine(self, items: Sequence[Known]) -> list[Finding]:
        """Where the index differs from `items`, by document."""
        self.pause_point()
        keys = tuple(item.key for item in items)
        if not keys:
            return []
        entries = self.index.entries(keys)
        hidden = self.index.hidden_below({key.collection for key in keys})
        pairs = {key_text(i.key): self._pair(i, entries.get(i.key), hidden) for i in items}
        fields = [OWN, "metadata", *(["page_content"] if self.deep else [])]
        for stored in self.index.scroll(of_kind("chunk", of_keys(keys)), payload=fields):
            _look_at_chunk(pairs[stored.payload[OWN]["key"]], stored, deep=self.deep)
        if self.deep:
            self._look_at_vectors(pairs.values())
        found = [_finding(pair) for pair in pairs.values()]
        return [finding for finding in found if finding.drifts]

    def _look_at_vectors(self, pairs: Iterable[_Pair]) -> None:
        recipe = self.index.recipe()
        indexed = [p for p in pairs if isinstance(p.item, Revision) and _is_indexed(p)]
        owners = {id_: p for p in indexed for id_ in p.listed if id_ in p.stored}
        if recipe is None or not owners:
            return
        for id_ in without_vector(self.index.store, list(owners), recipe.dimension):
            owners[id_].blind.append(id_)
            owners[id_].wrong.append(f"the vector of chunk {id_}")

    def _pair(self, item: Known, entry: Entry | None, hidden: Mapping[str, Version]) -> _Pair:
        floor = hidden.get(item.key.collection)
        is_hidden = entry is not None and floor is not None and entry.version < floor
        has_failed = entry is not None and entry.state == "failed"
        is_ahead = entry is not None and self.is_ahead(entry)
        if not isinstance(item, Revision) or not (self.deep or has_failed):
            return _Pair(item, entry, is_hidden, is_ahead)
        self.pause_point()
        prepared = self.steps.prepare(item)
        if isinstance(prepared, Failed):
            return _Pair(prepared, entry, is_hidden, is_ahead)
        return _Pair(item, entry, is_hidden, is_ahead, identify(item.key, prepared.chunks or ()))


def by_collection(keys: Iterable[Key]) -> dict[str, list[Key]]:
    """The keys of each collection."""
    groups: dict[str, list[Key]] = {}
    for key in keys:
        groups.setdefault(key.collection, []).append(key)
    return groups


def bson_ids(keys: Iterable[Key]) -> list[Any]:
    """The `_id`s of these keys; a key that is none has no document."""
    ids = []
    for key in keys:
        try:
            ids.append(decode_id(key.id))
        except ValueError:
            continue
    return ids


# --- what differs ---------------------------------------------------------------------------------


def _look_at_chunk(pair: _Pair, stored: Stored, *, deep: bool) -> None:
    pair.stored.add(stored.id)
    if not isinstance(pair.item, Revision) or not _is_indexed(pair) or stored.id not in pair.listed:
        return
    own = stored.payload[OWN]
    known = pair.chunks.get(stored.id) if pair.chunks else None
    input_hash, headings = own.get("hash", ""), tuple(own.get("headings") or ())
    if known is not None:
        input_hash, headings = known[0], known[1].headings
    written = Version(**own["written"])
    wanted: Payload = {OWN: own_chunk_payload(pair.item.key, written, input_hash, headings)}
    if deep and known is not None:
        wanted["page_content"] = known[1].text
    wrong = {name: value for name, value in wanted.items() if stored.payload.get(name) != value}
    if wrong:
        pair.rewrites[stored.id] = wrong
        pair.wrong.append(f"{' and '.join(wrong)} of chunk {stored.id}")
    if (stored.payload.get("metadata") or {}) != pair.item.document.metadata:
        pair.wrong.append(f"metadata of chunk {stored.id}")


def _finding(pair: _Pair) -> Finding:
    key = pair.item.key
    drifts = tuple(drift_of(key, kind, detail) for kind, detail in _differences(pair))
    is_stray = any(drift.kind == "orphaned_chunk" for drift in drifts)
    return Finding(
        key=key,
        drifts=drifts,
        seen=_fingerprint(pair.item),
        version=pair.entry.version if pair.entry else None,
        stray=tuple(sorted(pair.stored.difference(pair.listed))) if is_stray else (),
        rewrites=pair.rewrites,
        blind=tuple(pair.blind),
    )


def _differences(pair: _Pair) -> Iterator[tuple[Kind, str]]:
    if isinstance(pair.item, Removal):
        yield from _differences_of_absent(pair)
    elif pair.entry is None or pair.entry.state == "deleted" or pair.hidden:
        yield "missing", f"its entry is {_state(pair)}"
    elif isinstance(pair.item, Failed) and pair.entry.state != "failed":
        yield "missing", f"it fails ({pair.item.failure.reason}), which its entry does not say"
    else:
        if pair.ahead:
            yield "stale", f"its version {pair.entry.version} is one of the database's future"
        elif isinstance(pair.item, Revision) and (reason := _staleness(pair, pair.item)):
            yield "stale", reason
        yield from _differences_of_chunks(pair)


def _differences_of_absent(pair: _Pair) -> Iterator[tuple[Kind, str]]:
    if pair.entry is not None and pair.hidden:
        return
    if pair.entry is not None and pair.entry.state != "deleted":
        yield "orphaned_document", "it is not in the database, or excluded by its mapping"
    elif pair.stored:
        yield "orphaned_chunk", f"{_some(pair.stored)} stored, its entry is {_state(pair)}"


def _differences_of_chunks(pair: _Pair) -> Iterator[tuple[Kind, str]]:
    listed = set(pair.listed)
    if absent := listed - pair.stored:
        yield "missing_chunk", f"{_some(absent)} listed and not stored"
    if stray := pair.stored - listed:
        yield "orphaned_chunk", f"{_some(stray)} stored and not listed"


def _staleness(pair: _Pair, revision: Revision) -> str:
    """Why an entry that exists does not stand for this revision; empty if it does."""
    entry = pair.entry
    assert entry is not None
    if entry.state == "failed":
        # Only embedding tells whether the model still refuses it, and comparing embeds nothing.
        step = entry.failure.step if entry.failure else ""
        return "" if step == "embed" else "it is recorded as failed, and can be indexed"
    if entry.digest != revision.digest:
        return "its text is not what was indexed"
    if entry.metadata_digest != revision.metadata_digest or entry.title != revision.document.title:
        return "its metadata is not what was indexed"
    if pair.chunks is not None and tuple(pair.chunks) != entry.chunks:
        return "its list of chunks is not what its text gives"
    return f"{pair.wrong[0]} is not what was indexed" if pair.wrong else ""


def _is_indexed(pair: _Pair) -> bool:
    return pair.entry is not None and pair.entry.state == "indexed" and not pair.hidden


def _state(pair: _Pair) -> str:
    if pair.entry is None:
        return "absent"
    return "below its collection's floor" if pair.hidden else "a tombstone"


def _some(ids: set[str]) -> str:
    return f"{len(ids)} chunks ({min(ids)}, ...)" if len(ids) > 1 else f"1 chunk ({min(ids)})"


def _fingerprint(item: Known) -> tuple[str, ...]:
    match item:
        case Revision():
            return (item.digest, item.metadata_digest)
        case Failed():
            return ("failed", item.failure.step, item.failure.reason)
        case Removal():
            return ("gone",)
