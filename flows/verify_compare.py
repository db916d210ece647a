"""One look at some documents: what the database says now, and how the index differs.

A look takes no lock, so writers and the flow may move both sides under it: what it finds is a
suspicion, which `verify_settle` confirms or drops. Documents are read before their entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from connectors.index import Index
from connectors.mongo_reader import BATCH_DOCUMENTS, DocumentReader
from flows.verify_pair import Finding, Known, Pair, finding_of, is_indexed, look_at_chunk
from flows.verify_vectors import without_vector
from models.ids import decode_id, key_of, key_text
from models.points import OWN, of_keys, of_kind
from models.records import (
    Change,
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


class Steps(Protocol):
    """The steps before the apply step, as `flows.steps.Steps` has them."""

    def map_change(self, change: Change) -> Item:
        """One change, mapped."""

    def prepare(self, revision: Revision) -> Revision | Failed:
        """Clean and chunk one revision."""


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
            look_at_chunk(pairs[stored.payload[OWN]["key"]], stored, deep=self.deep)
        if self.deep:
            self._look_at_vectors(pairs.values())
        found = [finding_of(pair) for pair in pairs.values()]
        return [finding for finding in found if finding.drifts]

    def _look_at_vectors(self, pairs: Iterable[Pair]) -> None:
        recipe = self.index.recipe()
        indexed = [p for p in pairs if isinstance(p.item, Revision) and is_indexed(p)]
        owners = {id_: p for p in indexed for id_ in p.listed if id_ in p.stored}
        if recipe is None or not owners:
            return
        for id_ in without_vector(self.index.store, list(owners), recipe.dimension):
            owners[id_].blind.append(id_)
            owners[id_].wrong.append(f"the vector of chunk {id_}")

    def _pair(self, item: Known, entry: Entry | None, hidden: Mapping[str, Version]) -> Pair:
        floor = hidden.get(item.key.collection)
        is_hidden = entry is not None and floor is not None and entry.version < floor
        has_failed = entry is not None and entry.state == "failed"
        is_ahead = entry is not None and self.is_ahead(entry)
        if not isinstance(item, Revision) or not (self.deep or has_failed):
            return Pair(item, entry, is_hidden, is_ahead)
        self.pause_point()
        prepared = self.steps.prepare(item)
        if isinstance(prepared, Failed):
            return Pair(prepared, entry, is_hidden, is_ahead)
        return Pair(item, entry, is_hidden, is_ahead, identify(item.key, prepared.chunks or ()))


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
