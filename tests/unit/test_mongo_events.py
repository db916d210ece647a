"""What change events mean."""

from __future__ import annotations

from typing import Any

import pytest
from bson.timestamp import Timestamp as BsonTimestamp

from connectors.mongo import MongoScope
from connectors.mongo_events import interpret
from models.ids import key_of
from models.records import Cursor, Delete, Floor, Upsert, Version

V = Version(5, 6)
ALL = MongoScope(database="d")
SOME = MongoScope(database="d", collections=("a", "b"))


def event(operation: str, collection: str = "a", **fields: Any) -> dict[str, Any]:
    """A change event."""
    where = {"db": "d"} if operation == "dropDatabase" else {"db": "d", "coll": collection}
    given = {"documentKey": {"_id": 1}} | fields
    time = BsonTimestamp(5, 6)
    return {"_id": {"_data": "t"}, "operationType": operation, "clusterTime": time, "ns": where} | (
        given
    )


def rename(old: str, new: str, database: str = "d") -> dict[str, Any]:
    """A rename event."""
    return event("rename", old, to={"db": database, "coll": new})


@pytest.mark.parametrize("operation", ["insert", "update", "replace"])
def test_documents(operation: str) -> None:
    """A document that is there is upserted whole."""
    happening = interpret(event(operation, fullDocument={"_id": 1, "v": 2}), V, ALL, ())
    assert happening.changes == (Upsert(key=key_of("a", 1), version=V, fields={"_id": 1, "v": 2}),)


@pytest.mark.parametrize(
    "given", [event("delete"), event("update", fullDocument=None), event("update")]
)
def test_gone_documents(given: dict[str, Any]) -> None:
    """A delete, and an update whose document is already gone, delete."""
    assert interpret(given, V, ALL, ()).changes == (Delete(key=key_of("a", 1), version=V),)


def test_drop() -> None:
    """A drop is a floor, and ends the collection's snapshot."""
    happening = interpret(event("drop"), V, ALL, ())
    assert happening.changes == (Floor(collection="a", version=V),)
    assert happening.ended == {"a"}


def test_drop_database() -> None:
    """A dropDatabase takes all collections that are known."""
    happening = interpret(event("dropDatabase"), V, ALL, {"b", "a"})
    assert [floor.collection for floor in happening.changes if isinstance(floor, Floor)] == [
        "a",
        "b",
    ]
    assert happening.ended == {"a", "b"}


@pytest.mark.parametrize(
    ("given", "scope", "floors", "begun"),
    [
        (rename("a", "b"), SOME, ["a", "b"], ["b"]),
        (rename("a", "x"), SOME, ["a"], []),
        (rename("x", "a"), SOME, ["a"], ["a"]),
        (rename("x", "y"), SOME, [], []),
        (rename("x", "y"), ALL, ["x", "y"], ["y"]),
        (rename("a", "b", database="other"), SOME, ["a"], []),
        (rename("a", "system.b"), ALL, ["a"], []),
    ],
)
def test_rename(
    given: dict[str, Any], scope: MongoScope, floors: list[str], begun: list[str]
) -> None:
    """The old name ends, the new one is cleared and read, each where it is in scope."""
    happening = interpret(given, V, scope, ())
    assert [change.collection for change in happening.changes if isinstance(change, Floor)] == (
        floors
    )
    assert happening.ended == set(floors)
    assert happening.begun == tuple(Cursor(collection=name, version=V) for name in begun)


@pytest.mark.parametrize("given", [event("insert", "x"), event("drop", "x"), event("invalidate")])
def test_nothing(given: dict[str, Any]) -> None:
    """What is out of scope or means nothing moves only the token."""
    happening = interpret(given, V, SOME, ())
    assert (happening.changes, happening.ended, happening.begun) == ((), frozenset(), ())
    assert happening.token == {"_data": "t"}


def test_excluded_fields_of_deletes() -> None:
    """The server's filter looks at namespaces and operations only: a delete has no document."""
    match, project = MongoScope(database="d", exclude_fields=("big", "x.y")).pipeline()
    assert set(match["$match"]) == {"operationType"}
    assert project == {
        "$project": {"updateDescription": 0, "fullDocument.big": 0, "fullDocument.x.y": 0}
    }
