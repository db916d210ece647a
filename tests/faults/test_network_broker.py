"""A broker that answers nothing: capture and index notice, wait, and go on when it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.memory import MemoryStore
from models.ids import key_of
from syncline.capture import CaptureWorker
from syncline.local.mongo import LocalMongo
from syncline.settings import MongoSettings
from tests.brokers import Broker
from tests.indexing import configure, indexing, texts, wait_for
from tests.servers import Mongo


@pytest.fixture
def capture(
    mongo: Mongo, mongo_server: LocalMongo, own_broker: Broker, topic: str
) -> Iterator[CaptureWorker]:
    """Of the test's database, running."""
    config = configure(own_broker, topic)
    database = MongoSettings(database=mongo.db.name)
    worker = CaptureWorker(config.model_copy(update={"mongo": database}), mongo_server.uri)
    worker.start()
    yield worker
    own_broker.resume()
    worker.control.request_stop()
    assert worker.join(10)


def test_silent_broker(
    mongo: Mongo, own_broker: Broker, topic: str, capture: CaptureWorker
) -> None:
    """What is written meanwhile is published and indexed without a restart, and the wait shows."""
    store = MemoryStore()
    mongo.db["notes"].insert_one({"_id": 1, "text": "One."})
    with indexing(configure(own_broker, topic), store) as replica:
        wait_for(lambda: store.exists() and texts(store) == {key_of("notes", 1): "One."})
        own_broker.stall()
        mongo.db["notes"].insert_many({"_id": n, "text": f"Number {n}."} for n in range(2, 50))
        mongo.db["notes"].delete_one({"_id": 1})
        wait_for(lambda: "pulsar" in capture.control.waiting)
        assert capture.status()["state"] == "waiting"
        own_broker.resume()
        expected = {key_of("notes", n): f"Number {n}." for n in range(2, 50)}
        replica.wait_for(lambda: texts(store) == expected, 40)
        wait_for(lambda: capture.ready() == (True, {}))
    assert capture.control.error is None
