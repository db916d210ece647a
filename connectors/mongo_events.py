"""Change events as changes: what each means for documents and for running snapshots. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.mongo import MongoScope, timestamp
from models.ids import key_of
from models.records import Change, Cursor, Delete, Floor, Upsert, Version

Event = Mapping[str, Any]
Token = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Happening:
    """One change event: what it means for documents, and for snapshots that are running."""

    token: Token
    version: Version
    changes: tuple[Change, ...] = ()
    ended: frozenset[str] = frozenset()
    """Collections that are no longer there: their snapshots are over."""
    begun: tuple[Cursor, ...] = ()
    """Collections that came without insert events: their snapshots begin."""
    size: int = 0
    """Bytes of BSON."""

    @property
    def documents(self) -> int:
        """How many of the changes are about a document."""
        return sum(not isinstance(change, Floor) for change in self.changes)

    @property
    def collections(self) -> frozenset[str]:
        """The collections that it shows to exist, or to have existed."""
        changed = {c.collection if isinstance(c, Floor) else c.key.collection for c in self.changes}
        return frozenset(changed)


def version_of(event: Event, last: Version | None) -> Version:
    """The event's cluster time, and its number among those of that time."""
    time = timestamp(event["clusterTime"])
    if last is not None and (last.seconds, last.increment) == time:
        return last._replace(n=last.n + 1)
    return Version(*time)


def interpret(
    event: Event, version: Version, scope: MongoScope, known: Collection[str], size: int = 0
) -> Happening:
    """What an event means. `known`: collections that a dropDatabase takes with it."""
    operation, token = event["operationType"], event["_id"]
    collection = event.get("ns", {}).get("coll", "")
    if operation == "rename":
        return _rename(event, version, scope)
    if operation == "dropDatabase":
        floors = tuple(Floor(collection=name, version=version) for name in sorted(known))
        return Happening(token, version, floors, ended=frozenset(known))
    if not scope.includes(collection) or operation == "invalidate":
        return Happening(token, version)
    if operation == "drop":
        floor = Floor(collection=collection, version=version)
        return Happening(token, version, (floor,), ended=frozenset({collection}))
    return Happening(token, version, (_document(event, version),), size=size)


def _document(event: Event, version: Version) -> Upsert | Delete:
    key = key_of(event["ns"]["coll"], event["documentKey"]["_id"])
    fields = event.get("fullDocument")
    # An update without a document: it was deleted before the server looked it up.
    if event["operationType"] == "delete" or fields is None:
        return Delete(key=key, version=version)
    return Upsert(key=key, version=version, fields=fields)


def _rename(event: Event, version: Version, scope: MongoScope) -> Happening:
    old, new = event["ns"]["coll"], event["to"]["coll"]
    within = event["to"]["db"] == scope.database and scope.includes(new)
    # The new name may have been taken over from another collection; the event does not say.
    touched = [name for name in (old, new) if scope.includes(name) and (name == old or within)]
    return Happening(
        event["_id"],
        version,
        tuple(Floor(collection=name, version=version) for name in touched),
        ended=frozenset(touched),
        begun=(Cursor(collection=new, version=version),) if within else (),
    )
