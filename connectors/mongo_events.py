"""Change events as changes: pure, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.mongo import MongoScope, timestamp
from models.ids import key_of
from models.records import Change, Cursor, Delete, Floor, Timestamp, Upsert, Version

OPERATIONS = (
    "insert",
    "update",
    "replace",
    "delete",
    "drop",
    "rename",
    "dropDatabase",
    "invalidate",
)
"""What the change stream is asked for; everything else changes no document."""

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


def pipeline(scope: MongoScope, *, documents: bool = True) -> list[dict[str, Any]]:
    """The server's part of the filtering: namespaces, operations and fields.

    Deletes carry no document, so nothing here may look at one.
    """
    match: dict[str, Any] = {"operationType": {"$in": list(OPERATIONS)}}
    if scope.collections:
        names = {"$in": list(scope.collections)}
        match["$or"] = [
            {"ns.coll": names},
            {"to.coll": names},
            {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
        ]
    dropped = ["updateDescription", *(f"fullDocument.{path}" for path in scope.exclude_fields)]
    if not documents:
        dropped = ["updateDescription", "fullDocument"]
    return [{"$match": match}, {"$project": dict.fromkeys(dropped, 0)}]


def version_of(event: Event, last: Version | None) -> Version:
    """The event's cluster time, and its number among those of that time."""
    time = timestamp(event["clusterTime"])
    if last is not None and (last.seconds, last.increment) == time:
        return last._replace(n=last.n + 1)
    return Version(*time)


def just_below(time: Timestamp) -> Timestamp:
    """The cluster time before `time`. Increments are 32 bits wide, and begin at 1 a second."""
    if time.increment > 0:
        return Timestamp(time.seconds, time.increment - 1)
    return Timestamp(time.seconds - 1, 2**32 - 1)


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
