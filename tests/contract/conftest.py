"""The subjects of the store's contract: every implementation there is, or a visible skip."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from connectors.memory import MemoryStore
from connectors.qdrant import QdrantStore, connect
from connectors.qdrant_edge import EdgeStore
from connectors.store import Store
from connectors.store_client import RemoteStore
from connectors.store_server import StoreServer

DIMENSION = 8
SERVER = os.environ.get("SYNCLINE_TEST_QDRANT_URL", "")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "beyond_local_mode(reason): not run on qdrant-client's local mode"
    )


@pytest.fixture(params=["memory", "edge", "edge-shared", "client-local", "server"])
def subject(request: pytest.FixtureRequest) -> str:
    """The name of the implementation under test."""
    name: str = request.param
    if name == "server" and not SERVER:
        pytest.skip("SYNCLINE_TEST_QDRANT_URL is not set")
    marker = request.node.get_closest_marker("beyond_local_mode")
    if name == "client-local" and marker is not None:
        pytest.skip(f"qdrant-client's local mode: {marker.args[0]}")
    return name


class SharedEdge(RemoteStore):
    """Qdrant Edge as other processes see it; closing it closes all of it."""

    def __init__(self, directory: Path, socket: Path) -> None:
        super().__init__(socket)
        self._owned = EdgeStore(directory)
        self._server = StoreServer(self._owned, socket)
        self._server.start()

    def close(self) -> None:
        super().close()
        self._server.stop()
        self._owned.close()


@pytest.fixture
def fresh(subject: str, tmp_path: Path) -> Iterator[Store]:
    """A store that does not exist yet."""
    name = f"contract-{uuid.uuid4()}"
    makers: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "edge": lambda: EdgeStore(tmp_path / "index"),
        "edge-shared": lambda: SharedEdge(tmp_path / "index", tmp_path / "shared" / "store"),
        "client-local": lambda: QdrantStore(QdrantClient(":memory:"), name),
        "server": lambda: connect(SERVER, collection=name),
    }
    store = makers[subject]()
    yield store
    store.close()
    if subject == "server":
        client = QdrantClient(url=SERVER)
        client.delete_collection(name)
        client.close()


@pytest.fixture
def store(fresh: Store) -> Store:
    """An empty store of 8 dimensions."""
    assert fresh.create(DIMENSION)
    return fresh
