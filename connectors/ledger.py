"""The ledger: an entry for every source document, and the floors below which nothing counts.

Several writers may share it. An entry is written by compare-and-set: it takes the place of exactly
the entry that its change was planned against, in every field, or of none. And an entry that a
floor has overtaken is taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from connectors.store import Conditional, Point, Store, Stored
from models import points
from models.conditions import All, Condition, Either, Match
from models.ids import entry_id, floor_id
from models.points import OWN, Swept
from models.records import ALL_COLLECTIONS, UNREAD, Entry, Floor, Key, Version

NEVER = Either(conditions=())
PAGE = 1_000
"""Entries or floors that are read, or named in a condition, at once."""


class Standing(NamedTuple):
    """Entries and floors as they stood at one moment."""

    entries: Mapping[Key, Entry]
    floors: Mapping[str, Version]
    """The floor that holds for each collection, where there is one."""
    hidden: Mapping[str, Version]
    """Below which version readers must not see a collection's documents (drop, rename)."""

    def hides(self, entry: Entry) -> bool:
        """Whether readers must not see a document, because its collection was dropped."""
        return entry.version < self.hidden.get(entry.key.collection, entry.version)


class Ledger:
    """Entries and floors of one index."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def entries(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """The entries that exist, by key."""
        found = self._retrieve([entry_id(key) for key in keys])
        return {entry.key: entry for entry in map(points.read_entry, found)}

    def standing(self, keys: Iterable[Key]) -> Standing:
        """The entries of these documents, and the floors of their collections, in one read."""
        wanted = [*keys]
        names = {key.collection for key in wanted}
        ids = [entry_id(key) for key in wanted]
        entries, floors = {}, {}
        for payload in self._retrieve([*ids, *map(floor_id, {*names, ALL_COLLECTIONS})]):
            if payload[OWN]["kind"] == "floor":
                floor = points.read_floor(payload)
                floors[floor.collection] = floor.version
            else:
                entry = points.read_entry(payload)
                entries[entry.key] = entry
        general = floors.pop(ALL_COLLECTIONS, None)
        both = floors
        if general is not None:
            both = {name: max(general, floors.get(name, general)) for name in names}
        return Standing(entries, both, floors)

    def commit(
        self, entries: Sequence[Entry], *, against: Mapping[Key, Entry] | None = None
    ) -> set[Key]:
        """Write entries, each where that of `against` stands still, and where none is there, none.

        Without `against`: that of now. Returns the keys of those that lost: to another writer's
        entry, to a newer version, or to a floor. A refused conditional write looks like success,
        so all are read back.
        """
        keys = [entry.key for entry in entries]
        known = self.entries(keys) if against is None else against
        new = [e for e in entries if e.key not in known]
        changed = [e for e in entries if e.key in known and e.version >= known[e.key].version]
        still = points.one_of(known[entry.key] for entry in changed)
        writes = (Conditional(_points(new), NEVER), Conditional(_points(changed), still, False))
        self._store.upsert_conditionally([write for write in writes if write.points])
        now = self.standing(keys)
        won = [entry for entry in entries if now.entries.get(entry.key) == entry]
        lost = {*keys} - {entry.key for entry in won}
        # Refused, and nobody has written it: compared with what was planned against.
        stuck = [e.key for e in changed if now.entries.get(e.key) == known[e.key]]
        self._reseal([key for key in stuck if key in lost])
        buried = [e for e in won if e.version < now.floors.get(e.key.collection, e.version)]
        for entry in buried:
            floor = now.floors[entry.key.collection]
            self.remove([entry.key], points.of_kind("entry", points.older_than(floor)), floor)
        return lost | {entry.key for entry in buried}

    def rewind(self, entries: Sequence[Entry], to: Version) -> None:
        """Give entries that claim a version of the future this one, as far as they stand still."""
        if entries:
            lower = [entry.model_copy(update={"version": to}) for entry in entries]
            write = Conditional(_points(lower), points.one_of(entries), False)
            self._store.upsert_conditionally([write])

    def _reseal(self, keys: Sequence[Key]) -> None:
        """Entries that damage has altered, and not their etag with them: every change of theirs
        would lose, for ever."""
        for payload in self._retrieve([entry_id(key) for key in keys]):
            as_stored = Match(path=(OWN, "etag"), values=(payload[OWN]["etag"],))
            write = Conditional(_points([points.read_entry(payload)]), as_stored, False)
            self._store.upsert_conditionally([write])

    def remove(self, keys: Sequence[Key], dead: Condition, below: Version) -> None:
        """Remove the entries of these documents for which `dead` holds, and where none is left,
        the chunks that changes below that version wrote."""
        if not keys:
            return
        # Under the condition again: another writer may have raised one meanwhile. And entries
        # first: chunks without an entry are invisible, the reverse is a hole.
        self._store.delete_where(All(conditions=(dead, points.of_keys(tuple(keys)))))
        gone = tuple({*keys} - self.entries(keys).keys())
        chunks = points.of_kind("chunk", points.of_keys(gone), points.written_before(below))
        self._store.delete_where(chunks)

    def unread(self) -> list[Entry]:
        """Messages that could not be read, as the failures that they are recorded as."""
        condition = points.of_kind("entry", points.in_collection(UNREAD))
        return [points.read_entry(stored.payload) for stored in self._scroll(condition)]

    def forget(self, entries: Sequence[Entry]) -> None:
        """Remove entries that have no chunks, where they still stand as they are."""
        for start in range(0, len(entries), PAGE):
            same = points.one_of(entries[start : start + PAGE])
            self._store.delete_where(points.of_kind("entry", same))

    def hidden_below(self, collections: Iterable[str]) -> dict[str, Version]:
        """Below which version readers must not see a collection's documents (drop, rename)."""
        found = self._retrieve([floor_id(name) for name in set(collections)])
        return {f.collection: f.version for f in map(points.read_floor, found)}

    def all_floors(self) -> list[tuple[Floor, Mapping[str, Swept]]]:
        """Every floor there is, and how far each share has swept below it."""
        found = self._scroll(points.of_kind("floor"))
        return [(points.read_floor(s.payload), points.read_swept(s.payload)) for s in found]

    def put_floor(self, floor: Floor) -> None:
        """Raise a floor; an older one changes nothing. One that comes again is swept again: what
        lies below it may have come again too."""
        self._store.upsert_conditionally(
            [
                Conditional(
                    [Point(floor_id(floor.collection), points.floor_payload(floor))],
                    points.not_newer_than(floor.version),
                )
            ]
        )

    def _scroll(self, condition: Condition) -> Iterator[Stored]:
        after: str | None = None
        while True:
            page, after = self._store.scroll(condition, limit=PAGE, after=after)
            yield from page
            if after is None:
                return

    def _retrieve(self, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        return [stored.payload for stored in self._store.retrieve(ids)] if ids else []


def _points(entries: Iterable[Entry]) -> list[Point]:
    return [Point(entry_id(entry.key), points.entry_payload(entry)) for entry in entries]
