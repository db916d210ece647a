"""A direct flow whose index is in another process, over a connection that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.index import Index
from connectors.qdrant_edge import EdgeStore
from connectors.store_client import RemoteStore
from connectors.store_server import StoreServer
from models.embedders import HashEmbedder
from syncline.local.mongo import LocalMongo
from syncline.settings import Configuration
from syncline.verification import verify_worker
from syncline.worker import Worker
from tests.indexing import wait_for
from tests.pipeline import DIMENSION, MAX_TOKENS, paragraphs
from tests.proxy import Proxy
from tests.servers import Mongo

DOCUMENTS = 150


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    """The index, as its owner has it."""
    store = EdgeStore(tmp_path / "index")
    yield store
    store.close()


@pytest.fixture
def proxy(tmp_path: Path, store: EdgeStore) -> Iterator[Proxy]:
    """In front of the socket on which the owner serves it."""
    served, listening = tmp_path / "shared" / "store", tmp_path / "proxy"
    server = StoreServer(store, served)
    server.start()
    with Proxy(served, listening) as proxy:
        yield proxy
    server.stop()


@pytest.fixture
def worker(mongo: Mongo, mongo_server: LocalMongo, proxy: Proxy) -> Iterator[Worker]:
    """The flow, not yet started, which gives a silent index up after half a second."""
    assert isinstance(proxy.address, Path)
    store = RemoteStore(proxy.address, timeout_seconds=0.5)
    config = Configuration.model_validate({"mongo": {"database": mongo.db.name}})
    embedder = HashEmbedder(DIMENSION, MAX_TOKENS)
    worker = Worker(config, mongo_server.uri, Index(store), embedder)
    yield worker
    worker.control.request_stop()
    assert worker.join(10)
    store.close()


Fault = Callable[[Proxy], None]
AWAY: dict[str, Fault] = {"gone": Proxy.refuse, "half-open": Proxy.stall}
PASSING: dict[str, Fault] = {
    "cut": Proxy.cut,
    "slow": lambda proxy: proxy.slow(0.01),
    "truncated": lambda proxy: proxy.truncate(above=3_000),
}
FAULTS = {**AWAY, **PASSING}


def settle(worker: Worker, mongo: Mongo, store: EdgeStore) -> None:
    """Wait until the watermark has passed a write that is done now."""
    now, index = mongo.now(), Index(store)

    def is_settled() -> bool:
        if worker.control.error is not None:
            raise worker.control.error
        return store.exists() and (index.watermark() or (0, 0)) >= (now.time, now.inc)

    wait_for(is_settled)


@pytest.mark.parametrize("phase", ["snapshot", "stream"])
@pytest.mark.parametrize("name", FAULTS)
def test_index_fails(
    mongo: Mongo, store: EdgeStore, proxy: Proxy, worker: Worker, name: str, phase: str
) -> None:
    """Gone, silent, slow, cut, truncated: the flow waits visibly, goes on, and ends in sync."""
    documents = [{"_id": n, "text": paragraphs(4, p0=f"Number {n}.")} for n in range(DOCUMENTS)]
    mongo.db["a"].insert_many(documents)
    worker.start()
    if phase == "stream":
        settle(worker, mongo, store)
    else:
        wait_for(lambda: worker.control.received > 0)
    FAULTS[name](proxy)
    mongo.db["a"].update_many({"_id": {"$lt": 50}}, {"$set": {"text": paragraphs(6)}})
    mongo.db["a"].delete_many({"_id": {"$gte": 120}})
    if name in AWAY:
        wait_for(lambda: "index" in worker.control.waiting)
        assert worker.status()["state"] == "waiting"
        assert not worker.ready()[0]
        proxy.heal()
    settle(worker, mongo, store)
    proxy.heal()
    wait_for(lambda: worker.ready() == (True, {}))
    report = verify_worker(worker, deep=True, repair=False, progress=lambda *_: None)
    assert report.in_sync, report
    assert report.documents == 120
