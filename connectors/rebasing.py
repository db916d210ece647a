"""Lets an index follow a database whose time went back: everything in it becomes as old as can be.

Versions are cluster times. After a restore to an earlier time whatever the database says would be
older than what the index holds, and be refused. So each entry and chunk is given the oldest version
there is, the floors go, and the snapshot that follows compares each document by its content: what
is the same is not embedded again, and what it does not find is swept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from connectors.ledger import Ledger
from connectors.store import Point, Store, Stored
from models import points
from models.conditions import All
from models.ids import entry_id, single_id
from models.points import OWN
from models.records import ALL_COLLECTIONS, Entry, Version

PAGE = 500
"""Points read and written at once."""
OLDEST = Version(0, 0)


def rebase(store: Store, ledger: Ledger, applying: threading.Lock) -> None:
    """Give everything the oldest version. For the only writer, while nothing is on its way.

    The position goes last: whoever is interrupted finds the time gone back again, and does it
    again. Raises `Unavailable`.
    """
    with applying:
        _bury(store, ledger)
        _each_page(store, "chunk", _rebase_chunks)
        _each_page(store, "entry", _rebase_entries)
        store.delete_where(points.of_kind("floor"))
        store.delete_where(points.of_kind("swept"))
        store.delete([single_id("position")])


def _bury(store: Store, ledger: Ledger) -> None:
    """Without its floor, what a drop has hidden and no sweep has removed would be seen again."""
    for floor in ledger.all_floors():
        if floor.collection != ALL_COLLECTIONS:
            below = points.older_than(floor.version)
            within = points.in_collection(floor.collection)
            store.delete_where(All(conditions=(points.of_kind("entry", below), within)))


def _each_page(store: Store, kind: str, rebase_page: Callable[[Store, list[Stored]], None]) -> None:
    after: str | None = None
    while True:
        page, after = store.scroll(points.of_kind(kind), limit=PAGE, after=after, payload=[OWN])
        if page:
            rebase_page(store, page)
        if after is None:
            return


def _rebase_chunks(store: Store, page: list[Stored]) -> None:
    store.set_payload([stored.id for stored in page], OLDEST._asdict(), at=(OWN, "written"))


def _rebase_entries(store: Store, page: list[Stored]) -> None:
    store.upsert([_rebased(points.read_entry(stored.payload)) for stored in page])


def _rebased(entry: Entry) -> Point:
    rewriting = entry.rewriting and OLDEST
    oldest = entry.model_copy(update={"version": OLDEST, "rewriting": rewriting})
    return Point(entry_id(entry.key), points.entry_payload(oldest))
