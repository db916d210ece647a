"""Removing what is dead: entries below floors that the watermark has passed, and old tombstones.

Each flow sweeps its own share of the documents, and notes at each floor that it is done with it; a
floor that comes again, because its topic is read again, has no such notes. A floor stands for as
long as a tombstone does, since a writer that stalled may bring back what lies below it: then each
share sweeps it once more, and the last one removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from connectors.ledger import Ledger
from connectors.store import Store
from models import points
from models.conditions import All, Condition, Match
from models.ids import floor_id, partition_of
from models.points import OWN, Swept
from models.records import ALL_COLLECTIONS, WHOLE, Floor, Share, Timestamp, Version

PAGE = 200
"""Entries looked at, and at most removed, by one step of a sweep."""


class _Dead(NamedTuple):
    """Entries to remove, and below which version their chunks go with them."""

    entries: Condition
    below: Version


class Sweeping:
    """Sweeps one index. What `more` cut short goes on where it was with the next call."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._reached: dict[tuple[Share, str], tuple[_Dead, str]] = {}

    def sweep(
        self,
        watermark: Timestamp,
        *,
        share: Share = WHOLE,
        keep_seconds: int,
        more: Callable[[], bool],
    ) -> int:
        """Remove what lies below floors that the watermark has passed, and tombstones older than
        `keep_seconds` of cluster time, of the documents of `share`; then floors as old as that.

        Stops early, to be called again, when `more()` says no. Returns the entries removed.
        """
        expired = Version(watermark.seconds - keep_seconds, 0, 0)
        removed = self._sweep_floors(watermark, expired, share, more)
        dead = Match(path=(OWN, "state"), values=("deleted",))
        tombstones = _Dead(points.of_kind("entry", dead, points.older_than(expired)), expired)
        count, _ = self._sweep_entries("", tombstones, share, more)
        return removed + count

    # --- floors ---------------------------------------------------------------------------

    def _sweep_floors(
        self, watermark: Timestamp, expired: Version, share: Share, more: Callable[[], bool]
    ) -> int:
        name, removed = _name(share.partition, share.of), 0
        for floor, swept in self._ledger.all_floors():
            stage: Swept = "expired" if floor.version < expired else "passed"
            if swept.get(name) not in (stage, "expired"):
                if floor.version[:2] > tuple(watermark) or not more():
                    continue
                count, is_done = self._sweep_entries(floor.collection, _below(floor), share, more)
                removed += count
                if not is_done or not self._sweep_orphans(floor, share, more):
                    continue
                swept = {**swept, name: stage}
                self._note(floor, {name: stage})
            if all(swept.get(_name(k, share.of)) == "expired" for k in range(share.of)):
                self._remove(floor, name)
        return removed

    def _note(self, floor: Floor, swept: Mapping[str, Swept]) -> None:
        """If it has come again meanwhile, what it says holds as well: nothing came below it."""
        only_if = points.is_floor_at(floor.version)
        self._store.set_payload(
            [floor_id(floor.collection)], swept, only_if=only_if, at=(OWN, "swept")
        )

    def _remove(self, floor: Floor, name: str) -> None:
        """Unless it has been raised, or has come again, since all shares were done with it."""
        still = All(conditions=(points.is_floor_at(floor.version), points.has_swept(name)))
        self._store.delete([floor_id(floor.collection)], only_if=still)

    # --- entries --------------------------------------------------------------------------

    def _sweep_entries(
        self, name: str, dead: _Dead, share: Share, more: Callable[[], bool]
    ) -> tuple[int, bool]:
        """How many entries were removed, and whether all there were."""
        removed = 0
        before, after = self._reached.pop((share, name), (dead, None))
        if name and before != dead:
            after = None  # of an older floor
        while more():
            page, following = self._store.scroll(
                dead.entries, limit=PAGE, after=after, payload=[OWN]
            )
            keys = [points.read_entry(stored.payload).key for stored in page]
            mine = [key for key in keys if partition_of(key, share.of) == share.partition]
            self._ledger.remove(mine, dead.entries, dead.below)
            removed += len(mine)
            if following is None:
                return removed, True
            after = following
        if after is not None:
            self._reached[share, name] = (dead, after)
        return removed, False

    def _sweep_orphans(self, floor: Floor, share: Share, more: Callable[[], bool]) -> bool:
        """Chunks of a dropped collection that no entry led to: their writer died before it wrote
        one, and its change came again below the floor. Whether all there were are gone.

        Not below a snapshot's floor, where chunks last written before it are mostly alive.
        """
        if floor.collection == ALL_COLLECTIONS:
            return True
        old = points.written_before(floor.version)
        chunks = points.of_kind("chunk", points.in_collection(floor.collection), old)
        after: str | None = None
        while more():
            page, after = self._store.scroll(chunks, limit=PAGE, after=after, payload=[OWN])
            found = [points.read_chunk(stored.id, stored.payload) for stored in page]
            mine = [c for c in found if partition_of(c.key, share.of) == share.partition]
            # A repair may have been ahead of the drop, and lists what was there before.
            entries = self._ledger.entries({chunk.key for chunk in mine})
            listed = {id_ for entry in entries.values() for id_ in entry.chunks}
            orphans = [chunk.id for chunk in mine if chunk.id not in listed]
            if orphans:
                self._store.delete(orphans, only_if=old)
            if after is None:
                return True
        return False


def _below(floor: Floor) -> _Dead:
    conditions: list[Condition] = [points.older_than(floor.version)]
    if floor.collection != ALL_COLLECTIONS:
        conditions.append(points.in_collection(floor.collection))
    return _Dead(All(conditions=(points.of_kind("entry"), *conditions)), floor.version)


def _name(partition: int, of: int) -> str:
    return f"{partition}/{of}"
