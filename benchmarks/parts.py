"""The parts of a run that benchmarks start and stop: a local MongoDB and a flow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from syncline.assemble import load_embedder, open_index
from syncline.local.mongo import start_mongo
from syncline.settings import Configuration, load_settings
from syncline.worker import Worker


def configuration(data_dir: Path, model: str | None = None) -> Configuration:
    """Local settings below `data_dir`."""
    return load_settings(
        None, local={"data_dir": data_dir, "mongo_port": 0}, embedder={"model": model}
    )


@contextlib.contextmanager
def local_mongo(data_dir: Path) -> Iterator[tuple[str, Any]]:
    """A local MongoDB and its database `syncline`."""
    server = start_mongo(data_dir / "mongo", 0)
    client: MongoClient[dict[str, Any]] = MongoClient(server.uri)
    try:
        yield server.uri, client["syncline"]
    finally:
        client.close()
        server.stop()


def run_until_settled(
    config: Configuration, uri: str, documents: int, embedder: Any = None
) -> tuple[float, Worker]:
    """Run a flow over what is in the database until all is acknowledged: seconds, and the flow.

    The time starts when the flow does; the model is loaded before.
    """
    index = open_index(config)
    worker = Worker(config, uri, index, embedder or load_embedder(config))
    started = time.perf_counter()
    worker.start()
    try:
        while worker.control.error is None:
            position = None
            if index.store.exists() and worker.control.acknowledged >= documents:
                position = index.position()
            if position is not None and position.watermark is not None:
                return time.perf_counter() - started, worker
            time.sleep(0.01)
        raise worker.control.error
    finally:
        worker.control.request_stop()
        worker.join(30)
        index.store.close()
