"""Servers that go away, come back, or have forgotten: what the MongoDB source makes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo.errors import OperationFailure

from connectors.mongo import MongoScope, check, connect, database
from connectors.mongo_follower import MAX_LOSSES
from connectors.mongo_source import Limits
from models.records import ALL_COLLECTIONS, Position, Timestamp, Version
from syncline.errors import Misconfigured, PositionLost, Unavailable
from syncline.local.mongo import LocalMongo
from syncline.local.process import choose_port
from tests.servers import Mongo
from tests.sourcing import Reading, fold, ids

Start = Callable[..., LocalMongo]
SHORT_OPLOG = ("--oplog-max-entries", "20")


def open_mongo(server: LocalMongo) -> Mongo:
    """The server's database `own`."""
    client = connect(server.uri, app_name="tests")
    return Mongo(client, database(client, "own"))


def test_restarted_server(start_server: Start, tmp_path: Path) -> None:
    """A server killed and started again is waited for, visibly, and nothing is lost or repeated."""
    port = choose_port(0, "port")
    # As a replica set's majority would, the server must keep what it has shown.
    server = start_server("--sync-on-commit", data_dir=tmp_path, port=port)
    mongo = open_mongo(server)
    with mongo.client, mongo.read() as reading:
        reading.wait_for(lambda: reading.positions)
        mongo.db["a"].insert_one({"_id": 1})
        reading.wait_until_settled(mongo.now())
        os.killpg(server.process.pid, signal.SIGKILL)
        server.stop()
        reading.wait_for(lambda: "mongo" in reading.control.waiting)
        assert reading.control.state == "waiting"
        start_server(data_dir=tmp_path, port=port)
        mongo.db["a"].insert_one({"_id": 2})
        reading.wait_until_settled(mongo.now())
        assert reading.control.waiting == {}
        assert ids(reading.of("a")) == [1, 2]


def test_unreachable_at_start(start_server: Start, tmp_path: Path) -> None:
    """A source that starts before its server waits for it."""
    port = choose_port(0, "port")
    with connect(f"mongodb://127.0.0.1:{port}", app_name="tests") as client:
        mongo = Mongo(client, database(client, "own"))
        with pytest.raises(Unavailable):
            check(client, mongo.scope)
        with mongo.read() as reading:
            reading.wait_for(lambda: "mongo" in reading.control.waiting)
            start_server(data_dir=tmp_path, port=port)
            mongo.db["a"].insert_one({"_id": 1})
            reading.wait_until_settled(mongo.now())
            # Once or twice: by the snapshot, the stream or both.
            assert {*ids(reading.of("a"))} == {1}


def test_stop_while_unreachable() -> None:
    """A source that waits for its server stops within two seconds, without an error."""
    port = choose_port(0, "port")
    with connect(f"mongodb://127.0.0.1:{port}", app_name="tests") as client:
        mongo = Mongo(client, database(client, "own"))
        with mongo.read() as reading:
            reading.wait_for(lambda: "mongo" in reading.control.waiting)
            reading.stop(seconds=4)
        assert reading.control.error is None
        assert reading.positions == []


def lose_history(mongo: Mongo) -> Position:
    """A position, with far more writes behind it than a short oplog holds."""
    mongo.db["a"].insert_many({"_id": n} for n in range(3))
    with mongo.read() as first:
        first.wait_for(lambda: first.position and first.position.token)
    mongo.db["a"].delete_one({"_id": 0})
    assert first.position is not None
    assert first.position.token is not None
    token = json_util.loads(first.position.token)
    for _ in range(20):
        # The server forgets after about every thousand writes.
        mongo.client["elsewhere"]["filler"].insert_many({} for _ in range(1000))
        if is_forgotten(mongo, token):
            return first.position
    raise AssertionError("the server forgets nothing")


def is_forgotten(mongo: Mongo, token: Any) -> bool:
    """Whether the server can no longer go on after this token."""
    try:
        mongo.db.watch(start_after=token).close()
    except OperationFailure as error:
        return error.code == 286
    return False


def test_lost_history(start_server: Start) -> None:
    """When the server has forgotten, a new generation reads everything again."""
    mongo = open_mongo(start_server(*SHORT_OPLOG))
    with mongo.client:
        position = lose_history(mongo)
        with mongo.read(position) as second:
            second.wait_until_settled(mongo.now())
    assert [name for name, _ in second.floors] == [ALL_COLLECTIONS]
    assert second.floors[0][1] > position.start
    assert sorted(fold(second.written)) == [("a", "1"), ("a", "2")]
    assert second.position is not None
    assert second.position.generation == 2


def test_lost_history_fails_where_asked(start_server: Start) -> None:
    """With `on_lost_history = "fail"` the flow ends, and says what to do."""
    mongo = open_mongo(start_server(*SHORT_OPLOG))
    with mongo.client:
        position = lose_history(mongo)
        with mongo.read(position, on_lost_history="fail") as second:
            second.join()
    assert isinstance(second.control.error, PositionLost)
    assert "remedy" in str(second.control.error)
    assert second.written == []
    assert second.positions == []


def test_third_loss_without_progress(mongo: Mongo) -> None:
    """A history that is lost again and again ends the flow instead of going round for ever."""
    # Slowly, so that each beginning is acknowledged before it turns out to be lost.
    lost = {"errorCode": 286, "blockConnection": True, "blockTimeMS": 1000}
    with mongo.failing(["aggregate"], times=100, **lost), mongo.read() as reading:
        reading.join()
    assert isinstance(reading.control.error, PositionLost)
    assert {position.generation for position, _ in reading.positions} == {1, 2, 3}
    assert len(reading.floors) == 3


def lose_again(mongo: Mongo, reading: Reading) -> None:
    """Lose the history of the source that runs, and wait until it has begun anew."""
    before = len(reading.floors)
    with mongo.failing(["getMore"], errorCode=286):
        reading.wait_for(lambda: len(reading.floors) > before)


def test_third_loss_within_backfills(mongo: Mongo) -> None:
    """Pages of snapshots that never end are no progress, however many of them are written."""
    mongo.db["a"].insert_many({"_id": n} for n in range(400))
    with mongo.read(slow=0.05, limits=Limits(page_documents=2)) as reading:

        def has_read(generation: int) -> bool:
            position = reading.position
            return position is not None and (
                position.generation == generation and position.cursors[0].last_id is not None
            )

        for generation in (1, 2):
            reading.wait_for(partial(has_read, generation))
            lose_again(mongo, reading)
        reading.wait_for(partial(has_read, 3))
        with pytest.raises(PositionLost, match="remedy"):
            lose_again(mongo, reading)


def test_losses_with_progress_between(mongo: Mongo) -> None:
    """However often the history is lost, if the index has caught up each time it goes on."""
    mongo.db["a"].insert_one({"_id": 1})
    with mongo.read() as reading:
        for _ in range(MAX_LOSSES + 1):
            reading.wait_until_settled(mongo.now())
            lose_again(mongo, reading)
        reading.wait_until_settled(mongo.now())
    assert reading.position is not None
    assert reading.position.generation == MAX_LOSSES + 2


def test_unreadable_token(mongo: Mongo) -> None:
    """A token of another kind of server is a lost position, not an error to wait for."""
    mongo.db["a"].insert_one({"_id": 1})
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
    assert first.position is not None
    foreign = json_util.dumps({"_data": "8263B3D1A5000000012B0229296E04"})
    with mongo.read(first.position.model_copy(update={"token": foreign})) as second:
        second.wait_until_settled(mongo.now())
    assert second.position is not None
    assert second.position.generation == 2
    assert ids(second.of("a")) == [1]


def test_another_scope(mongo: Mongo) -> None:
    """A position of another scope begins a new generation above the old one."""
    mongo.db["a"].insert_one({"_id": 1})
    with mongo.read() as first:
        first.wait_until_settled(mongo.now())
    with mongo.read(first.position, scope_fingerprint="another") as second:
        second.wait_until_settled(mongo.now())
    assert second.position is not None
    assert second.position.generation == 2
    assert second.floors[0][1] > first.floors[0][1]


def test_time_went_back(mongo: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database restored to before what the index has seen is refused, with the remedy."""
    monkeypatch.setattr("connectors.mongo_follower.CLOCK_PATIENCE_SECONDS", 0.5)
    future = Position(scope="scope", start=Version(1, 1), watermark=Timestamp(2**32 - 1, 1))
    with mongo.read(future) as reading:
        reading.join()
    assert isinstance(reading.control.error, Misconfigured)
    assert "restored" in reading.control.error.problem
    assert reading.written == []


class Aborting(Reading):
    """A flow that gives up what it has emitted, right behind its third acknowledgement."""

    def _acknowledge(self, position: Position) -> bool:
        unfinished = super()._acknowledge(position)
        if len(self.positions) == 3:
            self.control.abort()
        return unfinished


def test_aborted_flow(mongo: Mongo) -> None:
    """Once emitted changes are given up, nothing is acknowledged any more."""
    mongo.db["a"].insert_many({"_id": n} for n in range(2000))
    with Aborting(mongo.client, mongo.scope, slow=0.002) as reading:
        reading.join()
    assert len(reading.positions) == 3
    assert len(reading.written) < 2000


def test_standalone_server(start_server: Start) -> None:
    """A standalone server is refused with the command that helps."""
    with (
        connect(start_server("--standalone").uri, app_name="tests") as client,
        pytest.raises(Misconfigured, match=r"rs\.initiate"),
    ):
        check(client, MongoScope(database="own"))


def test_wrong_password(start_server: Start, tmp_path: Path) -> None:
    """Wrong credentials, and none, are refused with the remedy; right ones pass."""
    server = start_server(data_dir=tmp_path)
    with connect(server.uri, app_name="tests") as client:
        roles = [{"role": "root", "db": "admin"}]
        client.admin.command("createUser", "reader", pwd="right", roles=roles)
    server.stop()
    server = start_server("--auth", data_dir=tmp_path)
    for login, refused in (("", True), ("reader:wrong@", True), ("reader:right@", False)):
        uri = server.uri.replace("//", f"//{login}")
        with connect(uri, app_name="tests") as client:
            if refused:
                with pytest.raises(Misconfigured, match="read"):
                    check(client, MongoScope(database="own"))
            else:
                check(client, MongoScope(database="own"))
