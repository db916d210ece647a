"""Lets an index follow a database whose time went back: everything in it becomes as old as can be.

Versions are cluster times. After a restore to an earlier time whatever the database says would be
older than what the index holds, and be refused. So each entry and chunk is given the oldest version
there is, the floors go, and the snapshot that follows compares each document by its content: what
is the same is not embedded again, and what it does not find is swept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from connectors.ledger import Ledger
from connectors.store import Point, Store, Stored
from models import points
from models.conditions import Condition
from models.ids import entry_id, single_id
from models.points import OWN
from models.records import ALL_COLLECTIONS, Entry, Floor, Version

PAGE = 500
"""Points read and written at once."""
OLDEST = Version(0, 0)


def rebase(store: Store, ledger: Ledger, applying: threading.Lock) -> None:
    """Give everything the oldest version. For the only writer, while nothing is on its way.

    The position goes last: whoever is interrupted finds the time gone back again, and does it
    again. Raises `Unavailable`.
    """
    with applying:
        for floor, _ in ledger.all_floors():
            # Without it, what a drop has hidden and no sweep has removed would be seen again.
            if floor.collection != ALL_COLLECTIONS:
                _remove_below(floor, store, ledger)
        for page in _pages(store, points.of_kind("chunk")):
            ids = [stored.id for stored in page]
            store.set_payload(ids, OLDEST._asdict(), at=(OWN, "written"))
        for page in _pages(store, points.of_kind("entry")):
            store.upsert([_rebased(points.read_entry(stored.payload)) for stored in page])
        store.delete_where(points.of_kind("floor"))
        store.delete([single_id("position")])


def _remove_below(floor: Floor, store: Store, ledger: Ledger) -> None:
    within = points.in_collection(floor.collection)
    dead = points.of_kind("entry", within, points.older_than(floor.version))
    for page in _pages(store, dead):
        keys = [points.read_entry(stored.payload).key for stored in page]
        ledger.remove(keys, dead, floor.version)


def _pages(store: Store, condition: Condition) -> Iterator[list[Stored]]:
    after: str | None = None
    while True:
        page, after = store.scroll(condition, limit=PAGE, after=after, payload=[OWN])
        if page:
            yield page
        if after is None:
            return


def _rebased(entry: Entry) -> Point:
    rewriting = entry.rewriting and OLDEST
    oldest = entry.model_copy(update={"version": OLDEST, "rewriting": rewriting})
    return Point(entry_id(entry.key), points.entry_payload(oldest))
