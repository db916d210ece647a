"""One index: the ledger of entries, the chunks, the floors and the position, over any store.

Everything here is about one collection of points. Reads and writes are small and named after what
they mean; the order in which writes are done is decided by the apply step, not here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple, cast

import structlog

from connectors.paths import addressable
from connectors.store import Conditional, Dense, FieldType, Point, Sparse, Store, Stored
from models import points
from models.conditions import All, Condition, Match, Path, parse_date
from models.ids import entry_id, floor_id, single_id
from models.points import OWN, StoredChunk
from models.records import (
    ALL_COLLECTIONS,
    ChunkPoint,
    Entry,
    Floor,
    Key,
    Position,
    Recipe,
    Timestamp,
    Version,
)
from syncline.errors import Misconfigured

_log = structlog.get_logger(__name__)

PAGE = 1_000
"""Points a scroll asks for at once: a few MB of payload at the most usual sizes."""
MAX_METADATA_INDEXES = 64
"""Payload indexes cost memory and write time for ever; fields beyond are filtered unindexed."""


class Counts(NamedTuple):
    """What the index holds."""

    indexed: int
    failed: int
    deleted: int
    chunks: int


class Index:
    """An open index. All methods raise `Unavailable` while the store does not answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.applying = threading.Lock()
        """Held from a plan's reads to its last write: flow and repair share one process."""
        self._fields: dict[Path, FieldType] = {}
        self._full_warned = False

    # --- opening --------------------------------------------------------------------------

    def open(self, recipe: Recipe) -> None:
        """Create the index, or make sure that it was built by `recipe`.

        Raises `Misconfigured` if it was built by another one, or is not Syncline's at all.
        """
        created = self.store.create(recipe.dimension)
        self._check_conditions()
        known = self.recipe()
        if known is None:
            if not created and self.store.count(All(conditions=())):
                raise Misconfigured(
                    "the Qdrant collection already holds points that Syncline did not write",
                    "set qdrant.collection to a name of its own",
                )
            self._put_single("recipe", recipe)
        else:
            self.check(known, recipe)
        for path, field_type in points.INDEXED_FIELDS.items():
            self.store.create_field_index(path, cast(FieldType, field_type))
        self._fields = dict(self.store.field_indexes())

    @staticmethod
    def check(known: Recipe, wanted: Recipe) -> None:
        """Raises `Misconfigured` if an index of one recipe cannot be gone on with by the other."""
        if known != wanted:
            raise Misconfigured(_differences(known, wanted), _RECIPE_REMEDY)

    def recipe(self) -> Recipe | None:
        """What the index is made of; None if it is empty or does not exist."""
        payload = self._single("recipe") if self.store.exists() else None
        return points.read_recipe(payload) if payload else None

    def _check_conditions(self) -> None:
        """A server that does not know conditional writes ignores the condition, in silence."""
        probe = single_id("probe")
        self.store.upsert([Point(probe, {OWN: {"kind": "probe", "kept": True}})])
        never = Match(path=(OWN, "kind"), values=("never",))
        refused = Point(probe, {OWN: {"kind": "probe", "kept": False}})
        self.store.upsert_conditionally([Conditional([refused], never)])
        kept = [payload[OWN]["kept"] for payload in self._retrieve([probe])]
        self.store.delete([probe])
        if kept != [True]:
            raise Misconfigured(
                "this Qdrant server ignores the condition of a write, which guards every entry",
                "upgrade Qdrant to 1.16 or later",
            )

    # --- the ledger -----------------------------------------------------------------------

    def entries(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """The entries that exist, by key."""
        found = self._retrieve([entry_id(key) for key in keys])
        return {entry.key: entry for entry in map(points.read_entry, found)}

    def commit(self, entries: Sequence[Entry]) -> set[Key]:
        """Write entries where none or an older or equal version stands.

        Returns the keys of those that lost to a newer version. A refused conditional write looks
        like success, so all are read back.
        """
        ordered = sorted(entries, key=lambda entry: entry.version)
        self.store.upsert_conditionally(
            [
                Conditional(
                    [Point(entry_id(e.key), points.entry_payload(e)) for e in group],
                    points.not_newer_than(version),
                )
                for version, group in groupby(ordered, key=lambda entry: entry.version)
            ]
        )
        now = self.entries([entry.key for entry in entries])
        return {e.key for e in entries if e.key not in now or now[e.key].version != e.version}

    def floors(self, collections: Iterable[str]) -> dict[str, Version]:
        """The floor that holds for each of these collections, where there is one."""
        names = [*collections]
        found = self._retrieve([floor_id(name) for name in {*names, ALL_COLLECTIONS}])
        floors = {f.collection: f.version for f in map(points.read_floor, found)}
        general = floors.pop(ALL_COLLECTIONS, None)
        if general is None:
            return floors
        return {name: max(general, floors.get(name, general)) for name in names}

    def hidden_below(self, collections: Iterable[str]) -> dict[str, Version]:
        """Below which version readers must not see a collection's documents (drop, rename)."""
        found = self._retrieve([floor_id(name) for name in set(collections)])
        return {f.collection: f.version for f in map(points.read_floor, found)}

    def put_floor(self, floor: Floor) -> None:
        """Raise a floor; an older one changes nothing."""
        self.store.upsert_conditionally(
            [
                Conditional(
                    [Point(floor_id(floor.collection), points.floor_payload(floor))],
                    points.not_newer_than(floor.version),
                )
            ]
        )

    # --- chunks ---------------------------------------------------------------------------

    def stored_chunks(self, keys: Sequence[Key]) -> dict[Key, dict[str, StoredChunk]]:
        """Every chunk point of these documents, listed by an entry or not, without its text."""
        found: dict[Key, dict[str, StoredChunk]] = {key: {} for key in keys}
        condition = points.of_kind("chunk", points.of_keys(tuple(keys)))
        for stored in self.scroll(condition, payload=[OWN, "metadata"]) if keys else ():
            chunk = points.read_chunk(stored.id, stored.payload)
            found.setdefault(chunk.key, {})[chunk.id] = chunk
        return found

    def chunks(self, ids: Sequence[str]) -> dict[str, StoredChunk]:
        """Chunks by id, with their text."""
        found = self.store.retrieve(ids) if ids else []
        return {s.id: points.read_chunk(s.id, s.payload) for s in found}

    def vectors_of(self, hashes: Sequence[str]) -> dict[str, Dense]:
        """Vectors that are stored for these hashes anywhere in the index, as far as one page goes.

        The same model input has the same vector, whatever document it stands in: so a renamed
        collection or a copied document is not computed again. Best effort: what is missed is
        embedded.
        """
        if not hashes:
            return {}
        condition = points.of_kind("chunk", Match(path=(OWN, "hash"), values=tuple(hashes)))
        found, _ = self.store.scroll(
            condition, limit=min(4 * len(hashes), PAGE), payload=[OWN], dense=True
        )
        return {s.payload[OWN]["hash"]: s.dense for s in found if s.dense is not None}

    def put_chunks(self, chunks: Sequence[ChunkPoint]) -> None:
        """Store chunks with their vectors; invisible until an entry lists them."""
        for metadata in {id(c.metadata): c.metadata for c in chunks}.values():
            self._index_fields(metadata, ("metadata",))
        self.store.upsert(
            [Point(c.id, points.chunk_payload(c), c.dense, Sparse(*c.sparse)) for c in chunks]
        )

    def put_metadata(self, ids: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Replace the metadata of chunks."""
        self._index_fields(metadata, ("metadata",))
        self.store.set_payload(ids, {"metadata": dict(metadata)})

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points."""
        if ids:
            self.store.delete(ids)

    # --- position -------------------------------------------------------------------------

    def position(self) -> Position | None:
        """Where the source goes on; None before the first acknowledgement."""
        payload = self._single("position")
        return points.read_position(payload) if payload else None

    def resumable_position(self) -> Position | None:
        """The position, made void if a newer snapshot was begun and never acknowledged.

        Its floor stands already: going on below it would drop what comes as too old.
        """
        position = self.position()
        floor = self.hidden_below([ALL_COLLECTIONS]).get(ALL_COLLECTIONS)
        if position is None or floor is None or floor <= position.start:
            return position
        return position.model_copy(update={"scope": ""})

    def put_position(self, position: Position) -> None:
        """Keep the position: all that it is behind must have been written before."""
        self._put_single("position", position)

    # --- sweeping -------------------------------------------------------------------------

    def sweep(self, watermark: Timestamp, *, keep_seconds: int, more: Callable[[], bool]) -> int:
        """Remove what lies below floors that the watermark has passed, and expired tombstones.

        Stops early, to be called again, when `more()` says no. Returns the entries removed.
        """
        removed = 0
        expired = Version(watermark.seconds - keep_seconds, 0, 0)
        floors = self._floors()
        self.delete([floor_id(f.collection) for f in floors if f.swept and f.version < expired])
        for floor in floors:
            if floor.swept or floor.version[:2] > tuple(watermark):
                continue
            condition = points.of_kind("entry", points.older_than(floor.version))
            if floor.collection != ALL_COLLECTIONS:
                condition = points.of_kind(
                    "entry",
                    points.older_than(floor.version),
                    points.in_collection(floor.collection),
                )
            removed += self._sweep_entries(condition, more)
            if not more():
                return removed
            self.put_floor(floor.model_copy(update={"swept": True}))
        dead = Match(path=(OWN, "state"), values=("deleted",))
        return removed + self._sweep_entries(
            points.of_kind("entry", dead, points.older_than(expired)), more
        )

    def _floors(self) -> list[Floor]:
        return [points.read_floor(s.payload) for s in self.scroll(points.of_kind("floor"))]

    def _sweep_entries(self, condition: Condition, more: Callable[[], bool]) -> int:
        removed = 0
        while more():
            page, _ = self.store.scroll(condition, limit=200, payload=[OWN])
            if not page:
                break
            keys = tuple(points.read_entry(stored.payload).key for stored in page)
            with self.applying:
                # Under the condition again: another writer may have raised one meanwhile. And
                # entries first: chunks without an entry are invisible, the reverse is a hole.
                self.store.delete_where(All(conditions=(condition, points.of_keys(keys))))
                gone = tuple(set(keys) - self.entries(keys).keys())
                self.store.delete_where(points.of_kind("chunk", points.of_keys(gone)))
            removed += len(page)
        return removed

    # --- reading it all -------------------------------------------------------------------

    def counts(self) -> Counts:
        """How many documents of each state and chunk points there are."""
        states = [
            self.store.count(points.of_kind("entry", Match(path=(OWN, "state"), values=(state,))))
            for state in ("indexed", "failed", "deleted")
        ]
        indexed, failed, deleted = states
        return Counts(indexed, failed, deleted, self.store.count(points.of_kind("chunk")))

    def scroll(
        self, condition: Condition, *, payload: bool | Sequence[str] = True, page: int = PAGE
    ) -> Iterator[Stored]:
        """All points for which `condition` holds, page by page."""
        after: str | None = None
        while True:
            found, after = self.store.scroll(condition, limit=page, after=after, payload=payload)
            yield from found
            if after is None:
                return

    def failed(self, limit: int) -> list[Entry]:
        """Documents whose newest version could not be indexed."""
        bad = points.of_kind("entry", Match(path=(OWN, "state"), values=("failed",)))
        return [points.read_entry(s.payload) for s in islice(self.scroll(bad), limit)]

    # --- details --------------------------------------------------------------------------

    def _retrieve(self, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        return [stored.payload for stored in self.store.retrieve(ids)] if ids else []

    def _single(self, kind: str) -> Mapping[str, Any] | None:
        found = self._retrieve([single_id(kind)])
        return found[0] if found else None

    def _put_single(self, kind: str, record: Position | Recipe) -> None:
        self.store.upsert([Point(single_id(kind), points.single_payload(kind, record))])

    def _index_fields(self, value: Mapping[str, Any], path: Path) -> None:
        for name, item in value.items():
            field = (*path, name)
            if isinstance(item, Mapping):
                self._index_fields(item, field)
            # Names that Qdrant has no notation for are stored, and cannot be filtered by.
            elif field not in self._fields and addressable(field):
                kind = _field_type(item)
                if kind is not None:
                    self._index_field(field, kind)

    def _index_field(self, field: Path, kind: FieldType) -> None:
        used = len(self._fields) - len(points.INDEXED_FIELDS)
        if used < MAX_METADATA_INDEXES:
            self.store.create_field_index(field, kind)
            self._fields[field] = kind
        elif not self._full_warned:
            self._full_warned = True
            _log.warning("metadata_not_indexed", field=".".join(field), limit=MAX_METADATA_INDEXES)


def _field_type(value: Any) -> FieldType | None:
    item = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(item, bool):
        return "bool"
    if isinstance(item, (int, float)):
        return "float"  # a range over an integer index would not find 1.5 in the next document
    if isinstance(item, str):
        return "datetime" if parse_date(item) else "keyword"
    return None


def _differences(known: Recipe, wanted: Recipe) -> str:
    was, wish = known.model_dump(), wanted.model_dump()
    parts = [f"{k} {was[k]!r}, now {wish[k]!r}" for k in was if was[k] != wish[k]]
    return "the index was built with another recipe: " + "; ".join(parts)


_RECIPE_REMEDY = (
    "restore the settings it was built with, or let a new index be built: set qdrant.collection "
    "to another name, or local.data_dir to another directory"
)
