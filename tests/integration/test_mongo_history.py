"""Positions that lead nowhere: of a restored database, unreadable, of another time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import json_util

from connectors.mongo import connect, database
from models.records import Cursor, Position, Timestamp, Version
from syncline.errors import PositionLost
from syncline.local.mongo import LocalMongo
from tests.servers import Mongo
from tests.sourcing import Reading, fold, ids

Start = Callable[..., LocalMongo]


def open_mongo(server: LocalMongo) -> Mongo:
    client = connect(server.uri, app_name="tests")
    return Mongo(client, database(client, "own"))


def read_to_now(mongo: Mongo, position: Position | None = None, **options: Any) -> Reading:
    """Read until what is stored now is settled; the source, stopped."""
    with mongo.read(position, **options) as reading:
        reading.wait_until_settled(mongo.now())
    return reading


def test_restored_database(start_server: Start, tmp_path: Path) -> None:
    """A database restored to before our position is read again, though its clock is past it and
    the server would take our token."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = start_server(data_dir=data)
    with open_mongo(server).client as client:
        database(client, "own")["a"].insert_many({"_id": n} for n in range(3))
    server.stop()
    shutil.copytree(data, backup)
    server = start_server(data_dir=data)
    mongo = open_mongo(server)
    with mongo.client, mongo.read() as first:
        first.wait_until_settled(mongo.now())
        mongo.db["a"].insert_one({"_id": "lost"})
        mongo.db["a"].delete_one({"_id": 1})
        first.wait_until_settled(mongo.now())
    server.stop()
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    mongo = open_mongo(start_server(data_dir=data))
    with mongo.client:
        second = read_to_now(mongo, first.position)
        third = read_to_now(mongo, second.position)
    assert second.position is not None
    assert second.position.generation > 1
    state = fold([*first.written, *second.written])
    assert sorted(key.id for key in state) == ["0", "1", "2"]
    assert third.written == []


def test_an_event_that_the_server_forgot_proves_nothing(mongo: Mongo) -> None:
    """An idle database whose last event has left the oplog is not read again for that."""
    mongo.db["a"].insert_one({"_id": 1})
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
        mongo.db["a"].insert_one({"_id": 2})
        first.wait_until_settled(mongo.now())
    with (
        mongo.failing(["aggregate"], times=1, errorCode=286),
        mongo.read(first.position) as second,
    ):
        mongo.db["a"].insert_one({"_id": 3})
        second.wait_until_settled(mongo.now())
    assert ids(second.of("a")) == [3]
    assert second.floors == []


UNREADABLE = [
    {"token": '{"_data": "82'},
    {"token": '["_da"]'},
    {"cursors": (Cursor(collection="a", version=Version(1, 1), last_id="{"),)},
]


@pytest.mark.parametrize("broken", UNREADABLE)
def test_unreadable_position(mongo: Mongo, broken: dict[str, Any]) -> None:
    """A position that was cut off is no end: everything is read again."""
    mongo.db["a"].insert_one({"_id": 1})
    position = Position(scope="scope", start=Version(1, 1)).model_copy(update=broken)
    assert ids(read_to_now(mongo, position).of("a")) == [1]


def test_unreadable_position_fails_where_asked(mongo: Mongo) -> None:
    """With `on_lost_history = "fail"` nothing is read again without being asked for."""
    position = Position(scope="scope", start=Version(1, 1), token="{")
    with mongo.read(position, on_lost_history="fail") as reading:
        reading.join()
    assert isinstance(reading.control.error, PositionLost)
    assert "remedy" in str(reading.control.error)


def test_dropped_and_created_again_while_stopped(mongo: Mongo) -> None:
    """What it held before it was dropped is gone, what it holds now stays."""
    mongo.db["a"].insert_many({"_id": n} for n in range(5))
    first = read_to_now(mongo)
    mongo.db["a"].drop()
    mongo.db["a"].insert_many({"_id": n} for n in range(3, 8))
    second = read_to_now(mongo, first.position)
    state = fold([*first.written, *second.written])
    assert sorted(key.id for key in state) == ["3", "4", "5", "6", "7"]
    assert second.position is not None
    assert second.position.generation == 1


def test_time_that_went_back_is_told_to_the_index(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cluster's time stays behind, the index is made older, and all is read again."""
    monkeypatch.setattr("connectors.mongo_follower.CLOCK_PATIENCE_SECONDS", 0.1)
    mongo.db["a"].insert_one({"_id": 1})
    future = Position(scope="scope", start=Version(1, 1), watermark=Timestamp(2**32 - 1, 1))
    told: list[bool] = []
    reading = read_to_now(mongo, future, rebase=lambda: told.append(True))
    assert told == [True]
    assert ids(reading.of("a")) == [1]
    assert reading.position is not None
    assert reading.position.generation > 1


def test_restart_within_a_transaction(mongo: Mongo) -> None:
    """Events of one cluster time keep their numbers, wherever between them a restart begins."""
    mongo.db["a"].insert_one({"_id": 0})
    position = read_to_now(mongo).position
    assert position is not None
    with mongo.db.watch(max_await_time_ms=100) as stream, mongo.client.start_session() as session:
        with session.start_transaction():
            mongo.db["a"].insert_one({"_id": 1, "v": 1}, session=session)
            mongo.db["a"].update_one({"_id": 1}, {"$set": {"v": 2}}, session=session)
            mongo.db["a"].delete_one({"_id": 1}, session=session)
        events = [stream.next() for _ in range(3)]
    time = Version(events[0]["clusterTime"].time, events[0]["clusterTime"].inc)
    for n, event in enumerate(events):
        token, last = json_util.dumps(event["_id"]), time._replace(n=n)
        within = position.model_copy(update={"token": token, "last": last})
        found = [change.version for change in read_to_now(mongo, within).of("a")]
        assert found == [time._replace(n=k) for k in range(n + 1, 3)]
