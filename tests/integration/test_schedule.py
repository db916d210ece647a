"""`syncline up` and `syncline sync` compare index and database by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest

from connectors.index import Index
from connectors.qdrant_edge import EdgeStore
from connectors.store_server import StoreServer
from models.ids import entry_id, key_of
from syncline.local.mongo import LocalMongo
from syncline.running import running
from tests.integration.test_scenarios import HASH, Running, eventually
from tests.servers import Mongo


def test_up_tells_of_drift_by_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last comparison is in the status and in the metrics, and a stop does not wait for it."""
    for name, value in {**HASH, "SYNCLINE_VERIFY_EVERY_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    with running(tmp_path) as facts, Running(facts, tmp_path) as app:
        app.db.notes.insert_many([{"_id": n, "text": f"note {n}"} for n in range(200)])
        app.settle()
        last = eventually(lambda: seen(app, 200))
        metrics = read(f"{facts['http']}/metrics")
    assert (last["in_sync"], last["orphaned_chunks"]) == (True, 0)
    assert "examples" not in last
    assert 'syncline_drift_documents{kind="missing"} 0.0' in metrics
    assert "ended by itself" not in (tmp_path / "up.log").read_text()


def seen(app: Running, documents: int) -> dict[str, object] | None:
    """The last comparison, once it has met so many documents."""
    last: dict[str, object] | None = app.http.status()["verify"]["last"]
    return last if last and int(str(last["documents"])) >= documents else None


def test_sync_mends_damage_by_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongo: Mongo, mongo_server: LocalMongo
) -> None:
    """`syncline sync` finds what was damaged beside it, mends it, and tells so in its metrics."""
    settings = {"MONGO_URI": mongo_server.uri, "MONGO_DATABASE": mongo.db.name, "HTTP_PORT": "0"}
    schedule = {"VERIFY_EVERY_SECONDS": "1", "VERIFY_REPAIR": "true"}
    for name, value in {**settings, **schedule, "EMBEDDER_MODEL": "hash:128"}.items():
        monkeypatch.setenv(f"SYNCLINE_{name}", value)
    mongo.db.notes.insert_many([{"_id": n, "text": f"note {n}"} for n in range(20)])
    with shared_store(tmp_path) as (store, url):
        monkeypatch.setenv("SYNCLINE_QDRANT_URL", url)
        with command("sync", cwd=tmp_path) as facts:
            metrics = f"{facts['http']}/metrics"
            eventually(lambda: 'syncline_drift_documents{kind="missing"} 0.0' in read(metrics))
            Index(store).delete([entry_id(key_of("notes", 7))])
            eventually(lambda: "syncline_drift_repaired_total 1.0" in read(metrics))
        assert Index(store).counts().indexed == 20


def read(url: str) -> str:
    text: str = urlopen(url).read().decode()
    return text


@contextmanager
def shared_store(directory: Path) -> Iterator[tuple[EdgeStore, str]]:
    """An index that another process can use too, and its address."""
    store = EdgeStore(directory / "index")
    with TemporaryDirectory(prefix="syncline-") as short:
        server = StoreServer(store, Path(short) / "store")
        server.start()
        yield store, f"unix://{short}/store"
        server.stop()
    store.close()


@contextmanager
def command(*arguments: str, cwd: Path) -> Iterator[dict[str, str]]:
    """A `syncline` command, ready; yields the facts of its ready line. It must end in time."""
    line = [sys.executable, "-m", "syncline", *arguments]
    with subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            code = process.wait(10)
    assert code == 0
