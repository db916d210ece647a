"""When the MongoDB source acknowledges, and what its snapshot reader does not read twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connectors import mongo_source
from connectors.mongo import connect, database
from connectors.mongo_snapshot import Finished, Found, SnapshotReader
from models.ids import decode_id
from models.records import Cursor, Version
from syncline.control import Control
from syncline.local.mongo import LocalMongo
from tests.servers import Mongo
from tests.sourcing import Reading, eventually


def is_settled(reading: Reading) -> bool:
    """Whether the watermark has passed an event, after which nothing more is due."""
    position = reading.position
    if position is None or position.last is None or position.watermark is None:
        return False
    return position.watermark >= position.last[:2]


def test_a_stop_acknowledges_once_more(mongo: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing new was emitted: the owner of the position may have kept it in memory."""
    monkeypatch.setattr(mongo_source, "IDLE_ACKNOWLEDGE_SECONDS", 3600.0)
    with mongo.read() as reading:
        reading.wait_for(lambda: reading.positions)
        mongo.db["a"].insert_one({"_id": 1})
        reading.wait_for(lambda: is_settled(reading))
        assert not reading.acknowledged_at_stop
    assert reading.acknowledged_at_stop
    assert reading.control.error is None


def test_an_owner_that_is_not_done_is_called_again(
    start_server: Callable[..., LocalMongo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stream that stands still the same position comes again, if its owner asks for that."""
    monkeypatch.setattr(mongo_source, "IDLE_ACKNOWLEDGE_SECONDS", 0.01)
    with connect(start_server("--noop-heartbeat-seconds", "0").uri, app_name="tests") as client:
        mongo = Mongo(client, database(client, "own"))
        with mongo.read() as reading:
            reading.unfinished = True
            reading.wait_for(lambda: sum(p == reading.position for p, _ in reading.positions) >= 4)


def test_a_snapshot_that_has_ended_is_not_begun_again(mongo: Mongo) -> None:
    """Its end may still wait in the inbox when the source names its cursors anew."""
    mongo.db["a"].insert_one({"_id": 1})
    mongo.db["b"].insert_one({"_id": 2})
    version = Version(mongo.now().time, 0)
    a, b = (Cursor(collection=name, version=version) for name in "ab")
    reader = SnapshotReader(mongo.client, mongo.scope, Control())
    reader.thread.start()
    try:
        reader.read([a])
        eventually(lambda: len(reader.inbox) == 2)
        reader.read([a, b])
        eventually(lambda: len(reader.inbox) >= 4)
        items = reader.inbox.take(10, 10**6)
    finally:
        reader.close()
    assert [i.cursor.collection for i in items] == ["a", "a", "b", "b"]
    assert [type(i) for i in items] == [Found, Finished, Found, Finished]
    assert [decode_id(i.change.key.id) for i in items if isinstance(i, Found)] == [1, 2]
