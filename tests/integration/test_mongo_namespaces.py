"""Drops, renames and their like, through the MongoDB source."""

from __future__ import annotations

from connectors.mongo import MongoScope
from models.records import ALL_COLLECTIONS, Upsert
from tests.servers import Mongo
from tests.sourcing import Reading, fold, ids


def names(reading: Reading) -> list[str]:
    """The collections of the floors, in order."""
    return [name for name, _ in reading.floors]


def test_drop(mongo: Mongo) -> None:
    """A drop is a floor; what is written to the name afterwards stands above it."""
    mongo.db["a"].insert_many({"_id": n} for n in range(10))
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        mongo.db["a"].drop()
        mongo.db["a"].insert_one({"_id": 3, "v": 1})
        reading.wait_until_settled(mongo.now())
    assert names(reading) == [ALL_COLLECTIONS, "a"]
    assert list(fold(reading.written).values()) == [{"_id": 3, "v": 1}]


def test_drop_during_the_backfill(mongo: Mongo) -> None:
    """A drop ends the snapshot of its collection: the rest is not read for nothing."""
    mongo.db["a"].insert_many({"_id": n} for n in range(5000))
    mongo.db["b"].insert_one({"_id": 1})
    with mongo.read(slow=0.005) as reading:
        reading.wait_for(lambda: len(reading.of("a")) > 5)
        mongo.db["a"].drop()
        reading.wait_until_settled(mongo.now())
    assert list(fold(reading.written).values()) == [{"_id": 1}]
    assert len(reading.of("a")) < 1000
    assert reading.control.backfill == {}


def test_rename(mongo: Mongo) -> None:
    """A rename floors the old name and reads the new one, which gets no insert events."""
    mongo.db["a"].insert_many({"_id": n} for n in range(30))
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        mongo.db["a"].rename("b")
        mongo.db["b"].insert_one({"_id": "after"})
        reading.wait_until_settled(mongo.now())
    assert names(reading) == [ALL_COLLECTIONS, "a", "b"]
    assert {key.collection for key in fold(reading.written)} == {"b"}
    assert len(fold(reading.written)) == 31


def test_rename_over_another_collection(mongo: Mongo) -> None:
    """What the new name held before is gone."""
    mongo.db["a"].insert_one({"_id": 1})
    mongo.db["b"].insert_many([{"_id": 1, "old": True}, {"_id": 2, "old": True}])
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        mongo.db["a"].rename("b", dropTarget=True)
        reading.wait_until_settled(mongo.now())
    assert list(fold(reading.written).items()) == [(("b", "1"), {"_id": 1})]


def test_rename_during_the_backfill(mongo: Mongo) -> None:
    """The running snapshot of the old name gives way to one of the new name."""
    mongo.db["a"].insert_many({"_id": n} for n in range(400))
    with mongo.read(slow=0.002) as reading:
        reading.wait_for(lambda: len(reading.of("a")) > 5)
        mongo.db["a"].rename("b")
        reading.wait_until_settled(mongo.now())
    assert {key.collection for key in fold(reading.written)} == {"b"}
    assert len(fold(reading.written)) == 400


def test_rename_is_resumed(mongo: Mongo) -> None:
    """A stop in the middle of a renamed collection's snapshot goes on after it."""
    mongo.db["a"].insert_many({"_id": n} for n in range(500))
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
    mongo.db["a"].rename("b")
    with mongo.read(first.position, slow=0.005) as second:
        second.wait_for(lambda: second.position and _is_within(second.position.cursors))
    assert second.position is not None
    assert second.position.watermark is not None
    with mongo.read(second.position) as third:
        third.wait_until_settled(mongo.now())
    assert len(second.written) > 2
    assert len(third.written) < 500
    everything = [*first.written, *second.written, *third.written]
    assert {key.collection for key in fold(everything)} == {"b"}
    assert len(fold(everything)) == 500


def _is_within(cursors: object) -> bool:
    return isinstance(cursors, tuple) and any(c.last_id is not None for c in cursors)


def test_rename_into_and_out_of_scope(mongo: Mongo) -> None:
    """A configured name that appears by a rename is read, one that disappears is floored."""
    scope = MongoScope(database=mongo.db.name, collections=("a", "b"))
    mongo.db["a"].insert_one({"_id": 1})
    mongo.db["c"].insert_one({"_id": 2})
    with mongo.read(scope=scope) as reading:
        reading.wait_until_settled(mongo.now())
        mongo.db["a"].rename("hidden")
        mongo.db["c"].rename("b")
        reading.wait_until_settled(mongo.now())
    assert list(fold(reading.written)) == [("b", "2")]


def test_drop_database(mongo: Mongo) -> None:
    """After a dropDatabase and its invalidate, what is written anew is followed."""
    mongo.db["a"].insert_one({"_id": 1})
    mongo.db["b"].insert_one({"_id": 1})
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        mongo.client.drop_database(mongo.db.name)
        reading.wait_until_settled(mongo.now())
        assert fold(reading.written) == {}
        mongo.db["a"].insert_one({"_id": 2})
        reading.wait_until_settled(mongo.now())
    assert ids(c for c in reading.written if isinstance(c, Upsert))[-1] == 2
    assert list(fold(reading.written)) == [("a", "2")]


def test_drop_database_while_stopped(mongo: Mongo) -> None:
    """A position before a dropDatabase leads through it, and one behind it goes on."""
    mongo.db["a"].insert_one({"_id": 1})
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
    mongo.client.drop_database(mongo.db.name)
    mongo.db["a"].insert_one({"_id": 2})
    with mongo.read(first.position) as second:
        second.wait_until_settled(mongo.now())
    mongo.db["a"].insert_one({"_id": 3})
    with mongo.read(second.position) as third:
        third.wait_until_settled(mongo.now())
    assert ids(third.written) == [3]
    everything = [*first.written, *second.written, *third.written]
    assert list(fold(everything)) == [("a", "2"), ("a", "3")]


def test_views_are_not_read(mongo: Mongo) -> None:
    """Neither views nor the server's own collections are documents of their own."""
    mongo.db["a"].insert_one({"_id": 1})
    mongo.db.command("create", "view", viewOn="a", pipeline=[])
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
    assert list(fold(reading.written)) == [("a", "1")]
