"""A network between MongoDB and the source that breaks, stalls, crawls and truncates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connectors.mongo import CONNECT_SECONDS, HEARTBEAT_SECONDS, SOCKET_SECONDS, connect
from connectors.mongo_follower import BUFFER_BYTES
from connectors.mongo_source import Limits
from syncline.local.mongo import LocalMongo
from tests.proxy import Proxy
from tests.servers import Mongo
from tests.sourcing import Reading, fold

# As the defaults, but for impatient tests.
QUICK = "directConnection=true&connectTimeoutMS=500&heartbeatFrequencyMS=500"
TEXT = "x" * 1_000
MEGABYTE = "x" * 1_000_000


@pytest.fixture
def proxy(mongo_server: LocalMongo) -> Iterator[Proxy]:
    """In front of the session's server."""
    port = int(mongo_server.uri.rstrip("/").rpartition(":")[2])
    with Proxy(("127.0.0.1", port)) as proxy:
        yield proxy


@pytest.fixture
def far(mongo: Mongo, proxy: Proxy) -> Iterator[Mongo]:
    """The test's database, through the proxy."""
    uri = f"mongodb://127.0.0.1:{proxy.port}/?{QUICK}"
    with connect(uri, app_name="tests", server_selection_seconds=0.2) as client:
        yield Mongo(client, mongo.db)


def holds(reading: Reading, mongo: Mongo) -> bool:
    """Whether what was read is what the database holds."""
    stored = {f"{d['_id']}": d for d in mongo.db["a"].find()}
    return {key.id: dict(fields) for key, fields in fold(reading.written).items()} == stored


Fault = Callable[[Proxy], None]
AWAY: dict[str, Fault] = {"gone": Proxy.refuse, "half-open": Proxy.stall}
PASSING: dict[str, Fault] = {
    "cut": Proxy.cut,
    "slow": lambda proxy: proxy.slow(0.02),
    "truncated": lambda proxy: proxy.truncate(above=10_000),
}


def change(mongo: Mongo) -> None:
    """Edits, deletes and inserts, more than one batch holds."""
    mongo.db["a"].update_many({"_id": {"$lt": 20}}, {"$set": {"edited": True}})
    mongo.db["a"].delete_many({"_id": {"$gte": 20, "$lt": 40}})
    mongo.db["a"].insert_many({"_id": n, "text": TEXT} for n in range(10_000, 10_300))


@pytest.mark.parametrize("phase", ["snapshot", "stream"])
@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_away(mongo: Mongo, far: Mongo, proxy: Proxy, fault: Fault, phase: str) -> None:
    """A MongoDB that is gone, or answers nothing, is waited for visibly, and nothing is lost."""
    mongo.db["a"].insert_many({"_id": n, "text": TEXT} for n in range(3_000))
    slow = 0.001 if phase == "snapshot" else 0.0
    with far.read(slow=slow, limits=Limits(page_documents=50)) as reading:
        if phase == "stream":
            reading.wait_until_settled(mongo.now())
        reading.wait_for(lambda: len(reading.written) > 50)
        fault(proxy)
        reading.wait_for(lambda: "mongo" in reading.control.waiting, seconds=8)
        assert reading.control.state == "waiting"
        change(mongo)
        proxy.heal()
        reading.wait_until_settled(mongo.now())
        assert reading.control.waiting == {}
        assert holds(reading, mongo)
    assert reading.position is not None
    assert reading.position.generation == 1


@pytest.mark.parametrize("phase", ["snapshot", "stream"])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_passing(mongo: Mongo, far: Mongo, proxy: Proxy, fault: Fault, phase: str) -> None:
    """A connection that breaks in the middle of a batch, or crawls, costs time and nothing else."""
    mongo.db["a"].insert_many({"_id": n, "text": TEXT} for n in range(1_000))
    if phase == "snapshot":
        fault(proxy)
    with far.read() as reading:
        if phase == "stream":
            reading.wait_until_settled(mongo.now())
            fault(proxy)
        change(mongo)
        reading.wait_until_settled(mongo.now())
        assert holds(reading, mongo)
    if fault is PASSING["truncated"]:
        assert proxy.truncated == 1


def test_a_slow_index_bounds_the_memory(mongo: Mongo) -> None:
    """While nothing can be written, no more is read than fits into the buffer."""
    held = [True]

    class Held(Reading):
        def write_batch(self, items: list[Any]) -> None:
            while held[0] and not self.control.wait_stop(0.01):
                pass
            super().write_batch(items)

    with Held(mongo.client, mongo.scope) as reading:
        reading.wait_for(lambda: reading.control.state == "streaming")
        for n in range(110):
            mongo.db["a"].insert_one({"_id": n, "text": MEGABYTE})
        reading.wait_for(lambda: reading.control.received > 50)
        # One batch in the flow, the buffer, one that waits for room.
        most = (Limits().batch_bytes + BUFFER_BYTES) // 1_000_000 + 2
        reading.control.wait_stop(0.5)
        assert reading.control.received <= most
        held[0] = False
        reading.wait_until_settled(mongo.now())
        assert reading.control.received == 110


def test_times_within_which_silence_is_noticed() -> None:
    """Whoever sets nothing gets our times; what the URI names, it knows better."""
    with connect("mongodb://127.0.0.1:1", app_name="tests") as client:
        options = client.options
        assert options.heartbeat_frequency == HEARTBEAT_SECONDS
        assert options.pool_options.connect_timeout == CONNECT_SECONDS
        assert options.pool_options.socket_timeout == SOCKET_SECONDS
    with connect("mongodb://127.0.0.1:1/?connecttimeoutms=700", app_name="tests") as client:
        assert client.options.pool_options.connect_timeout == 0.7
