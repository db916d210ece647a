"""The direct flow as a process of its own: what an orchestrator and an operator see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.store_server import StoreServer
from syncline.local.mongo import LocalMongo
from tests.brokers import WAIT_SECONDS
from tests.servers import Mongo

KEY = "an-api-key"
Sync = tuple[subprocess.Popen[str], Mapping[str, Any]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    """In the place of a Qdrant server, at `tmp_path / "store"`."""
    store = MemoryStore()
    server = StoreServer(store, tmp_path / "store")
    server.start()
    yield store
    server.stop()


@pytest.fixture
def environment(mongo: Mongo, mongo_server: LocalMongo, tmp_path: Path) -> dict[str, str]:
    """Of every process: the same database and store."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SYNCLINE_EMBEDDER_MODEL": "hash:64",
        "SYNCLINE_MONGO_URI": mongo_server.uri,
        "SYNCLINE_MONGO_DATABASE": mongo.db.name,
        "SYNCLINE_QDRANT_URL": f"unix://{tmp_path / 'store'}",
        "SYNCLINE_HTTP_API_KEY": KEY,
    }


@pytest.fixture
def sync(store: MemoryStore, environment: dict[str, str], tmp_path: Path) -> Iterator[Sync]:
    """`syncline sync` and its ready line."""
    command = [sys.executable, "-m", "syncline", "sync", "--http-port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
        process.kill()


def test_sync_tells_how_it_is(sync: Sync, store: MemoryStore, mongo: Mongo) -> None:
    """Probes and metrics are open, the status is behind the key; SIGTERM ends it with 0."""
    process, facts = sync
    mongo.db["notes"].insert_one({"_id": 1, "text": "one"})
    with httpx.Client(base_url=facts["http"], trust_env=False) as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").json() == {"ready": True}
        assert http.get("/v1/status").status_code == 401
        status = wait_for_documents(http)
        assert status["state"] == "streaming"
        assert 'syncline_documents_total{outcome="indexed"} 1.0' in http.get("/metrics").text
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert Index(store).counts().indexed == 1


def test_verify_beside_sync_compares_by_itself(
    sync: Sync, mongo: Mongo, environment: dict[str, str], tmp_path: Path
) -> None:
    """The flow's process answers no comparison, so the command does not ask it."""
    mongo.db["notes"].insert_one({"_id": 1, "text": "one"})
    with httpx.Client(base_url=sync[1]["http"], trust_env=False) as http:
        wait_for_documents(http)
    done = subprocess.run(
        [sys.executable, "-m", "syncline", "verify", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 1


def wait_for_documents(http: httpx.Client) -> dict[str, Any]:
    """The status once a document is indexed."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        answer = http.get("/v1/status", headers={"Authorization": f"Bearer {KEY}"})
        status: dict[str, Any] = answer.json()
        if status["documents"]["indexed"]:
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
