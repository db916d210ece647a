"""The MongoDB source against a real server, in a real Bytewax flow."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp

from connectors.mongo import MongoScope
from connectors.mongo_source import Limits
from models.ids import key_of
from models.records import ALL_COLLECTIONS, Change, Delete, Floor, Upsert
from tests.servers import Mongo
from tests.sourcing import Reading, eventually, fold, ids


def contents(mongo: Mongo) -> dict[Any, Any]:
    """What the database holds, as `fold` would say it."""
    return {
        key_of(name, document["_id"]): document
        for name in mongo.db.list_collection_names()
        for document in mongo.db[name].find()
    }


def test_snapshot_and_stream(mongo: Mongo) -> None:
    """A new index begins with a floor, then sees what is there and what is written meanwhile."""
    mongo.db["a"].insert_many({"_id": n, "v": 0} for n in range(300))
    mongo.db["b"].insert_one({"_id": "x"})
    with mongo.read() as reading:
        mongo.db["a"].update_many({"_id": {"$lt": 100}}, {"$set": {"v": 1}})
        mongo.db["a"].delete_many({"_id": {"$gte": 250}})
        # SecantusDB lists a collection a moment after its first document: not within the start.
        reading.wait_for(lambda: reading.written)
        mongo.db["c"].insert_one({"_id": "new"})
        reading.wait_until_settled(mongo.now())
    first = reading.written[0]
    assert isinstance(first, Floor)
    assert first.collection == ALL_COLLECTIONS
    assert fold(reading.written) == contents(mongo)
    assert len(fold(reading.written)) == 252
    assert reading.control.state == "stopped"
    assert reading.control.pending == 0
    assert reading.control.error is None


def test_edits_overtake_the_backfill(mongo: Mongo) -> None:
    """An edit comes out at once while a slow backfill still has hours to go."""
    mongo.db["a"].insert_many({"_id": n, "v": 0} for n in range(2000))
    with mongo.read(slow=0.02) as reading:
        reading.wait_for(lambda: len(reading.written) > 20)
        assert reading.control.state == "backfilling"
        seen = len(reading.written)
        mongo.db["a"].update_one({"_id": 1999}, {"$set": {"v": 1}})
        edited = key_of("a", 1999)
        reading.wait_for(lambda: edited in [c.key for c in reading.of("a")], seconds=3)
        assert len(reading.written) - seen < 200
        assert reading.position is not None
        assert reading.position.watermark is None
        assert reading.control.backfill["a"].total == 2000
        assert reading.control.backfill["a"].done < 500


class Outpaced(Reading):
    """A reader that is always behind: whenever it takes something, more waits in the stream."""

    AHEAD = 500

    def __init__(self, mongo: Mongo, **options: Any) -> None:
        super().__init__(mongo.client, mongo.scope, **options)
        self._collection = mongo.db["b"]

    def write_batch(self, items: list[Change]) -> None:
        ahead = len(self.written) + len(items) + self.AHEAD
        if self.control.received < ahead:
            self._collection.insert_many({} for _ in range(2 * self.AHEAD))
            eventually(lambda: self.control.received >= ahead or self.control.stop_requested)
        super().write_batch(items)


def test_the_backfill_goes_on_under_a_stream_that_never_rests(mongo: Mongo) -> None:
    """Writes that come faster than they are taken delay a snapshot, but do not stop it."""
    mongo.db["a"].insert_many({"_id": n, "v": 0} for n in range(200))
    with Outpaced(mongo, limits=Limits(batch_changes=20)) as reading:
        reading.wait_for(lambda: len(fold(reading.of("a"))) == 200)
    assert len(reading.of("b")) > 200, "the stream does not stop either"


def test_resume_after_stop(mongo: Mongo) -> None:
    """After an orderly stop nothing comes again, and nothing written meanwhile is missing."""
    mongo.db["a"].insert_many({"_id": n} for n in range(50))
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
    mongo.db["a"].insert_one({"_id": "while stopped"})
    with mongo.read(first.position) as second:
        second.wait_until_settled(mongo.now())
    assert ids(second.written) == ["while stopped"]
    assert second.floors == []
    assert first.position is not None
    assert second.position is not None
    assert second.position.generation == first.position.generation


def test_resume_from_every_position(mongo: Mongo) -> None:
    """Killed at any moment: from the last acknowledged position on, nothing is missing."""
    mongo.db["a"].insert_many({"_id": n, "v": 0} for n in range(120))
    # SecantusDB lists a collection a moment after its first document: not within the start.
    mongo.db.create_collection("b")
    with mongo.read(slow=0.01) as whole:
        for n in range(0, 120, 7):
            mongo.db["a"].update_one({"_id": n}, {"$set": {"v": 1}})
            mongo.db["a"].delete_one({"_id": n + 1})
            mongo.db["b"].insert_one({"_id": n})
        mark = mongo.now()
        whole.wait_until_settled(mark)
    assert len(whole.positions) >= 8
    for position, written in whole.positions[:: len(whole.positions) // 8]:
        with mongo.read(position) as again:
            again.wait_until_settled(mark)
        assert fold([*whole.written[:written], *again.written]) == contents(mongo)


EVERY_TYPE: list[Any] = [
    *(MinKey(), None, -3, 7, 7.5, Int64(2**40), Decimal128("1.25"), "a", "b", ""),
    *({"b": 1, "a": [1]}, {}, b"bytes", Binary(b"q", 128), uuid.UUID(int=5), ObjectId()),
    *(False, True, datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)),
    *(Timestamp(1, 2), MaxKey()),
]


def test_ids_of_every_type(mongo: Mongo) -> None:
    """`_id`s of all types are read in a snapshot, in the stream and after a restart between any."""
    mongo.db["a"].insert_many({"_id": i} for i in EVERY_TYPE)
    with mongo.read(slow=0.05, limits=Limits(page_documents=3)) as whole:
        whole.wait_until_settled(mongo.now())
        mongo.db["a"].update_many({}, {"$set": {"v": 1}})
        whole.wait_until_settled(mongo.now())
    assert len({change.key for change in whole.of("a")}) == len(EVERY_TYPE)
    assert fold(whole.written) == contents(mongo)
    places = {p.cursors[0].last_id: (p, n) for p, n in whole.positions if p.cursors}
    assert len(places) > 3
    for position, written in places.values():
        with mongo.read(position) as again:
            again.wait_until_settled(mongo.now())
        assert fold([*whole.written[:written], *again.written]) == contents(mongo), position


def test_scope(mongo: Mongo) -> None:
    """Collections that are not configured never come, neither by snapshot nor by stream."""
    scope = MongoScope(database=mongo.db.name, collections=("a", "b"), exclude_fields=("x.y",))
    for name in ("a", "b", "c"):
        mongo.db[name].insert_one({"_id": 1, "x": {"y": 1, "z": 2}})
    with mongo.read(scope=scope) as reading:
        reading.wait_until_settled(mongo.now())
        for name in ("a", "b", "c"):
            mongo.db[name].insert_one({"_id": 2, "x": {"y": 1, "z": 2}})
        mongo.client["elsewhere"]["a"].insert_one({})
        reading.wait_until_settled(mongo.now())
    upserts = [c for c in reading.written if isinstance(c, Upsert)]
    assert sorted(c.key.collection for c in upserts) == ["a", "a", "b", "b"]
    assert all(c.fields["x"] == {"z": 2} for c in upserts)


def test_transaction(mongo: Mongo) -> None:
    """Events of one transaction share a cluster time and are numbered within it."""
    mongo.db.create_collection("a")
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        with mongo.client.start_session() as session, session.start_transaction():
            mongo.db["a"].insert_one({"_id": 1, "v": 0}, session=session)
            mongo.db["a"].update_one({"_id": 1}, {"$set": {"v": 1}}, session=session)
        reading.wait_until_settled(mongo.now())
    versions = [change.version for change in reading.of("a")]
    assert [version.n for version in versions] == [0, 1]
    assert versions[0][:2] == versions[1][:2]
    assert list(fold(reading.written).values()) == [{"_id": 1, "v": 1}]


def test_update_of_a_document_that_is_gone(mongo: Mongo) -> None:
    """An update that the server can no longer look up is a delete."""
    mongo.db["a"].insert_one({"_id": 1})
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
    mongo.db["a"].update_one({"_id": 1}, {"$set": {"v": 1}})
    mongo.db["a"].delete_one({"_id": 1})
    with mongo.read(first.position) as second:
        second.wait_until_settled(mongo.now())
    assert [type(change) for change in second.written] == [Delete, Delete]


def test_large_documents(mongo: Mongo) -> None:
    """Documents near the limit of 16 MB come whole, by snapshot and by stream."""
    text = "x" * 15_700_000
    mongo.db["a"].insert_one({"_id": 1, "text": text})
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        mongo.db["a"].insert_one({"_id": 2, "text": text})
        mongo.db["a"].update_one({"_id": 1}, {"$set": {"text": text + "y"}})
        reading.wait_until_settled(mongo.now())
    assert fold(reading.written) == contents(mongo)


def test_event_too_large_for_the_server(mongo: Mongo) -> None:
    """An event that does not fit into an answer comes without its document, which is fetched."""
    mongo.db["a"].insert_one({"_id": 1, "v": 0})
    mongo.now()  # The stream begins at the last write: with it, not with the document.
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        with mongo.failing(["getMore"], errorCode=10334):
            mongo.db["a"].update_one({"_id": 1}, {"$set": {"v": 1}})
            mongo.db["a"].insert_one({"_id": 2})
            reading.wait_until_settled(mongo.now())
    assert fold(reading.written) == contents(mongo)
    assert ids(reading.written) == [1, 1, 2]


@pytest.mark.parametrize(
    "how",
    [{"errorCode": code} for code in (43, 50, 237, 262)] + [{"closeConnection": True}],
    ids=str,
)
def test_passing_errors(mongo: Mongo, how: Mapping[str, Any]) -> None:
    """A stream and a snapshot that are cut off go on where they were."""
    mongo.db["a"].insert_many({"_id": n} for n in range(1500))
    with mongo.read(slow=0.0005) as reading:
        reading.wait_for(lambda: reading.written)
        with mongo.failing(["getMore", "aggregate", "find"], times=4, **how):
            mongo.db["a"].insert_one({"_id": "new"})
            reading.wait_until_settled(mongo.now())
    assert fold(reading.written) == contents(mongo)
    assert len(reading.of("a")) <= 1503  # one more by the stream's start, and one seen by both
    assert reading.control.waiting == {}
