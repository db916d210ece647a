"""Every alias: it names one collection, moves in one step, and never loses the one that serves."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from connectors.alias import Alias
from connectors.memory_alias import MemoryAlias
from connectors.qdrant import QdrantStore, connect
from connectors.qdrant_alias import QdrantAlias
from connectors.qdrant_edge_alias import EdgeAlias
from connectors.store import Point
from models.conditions import All
from syncline.errors import Misconfigured

SERVER = os.environ.get("SYNCLINE_TEST_QDRANT_URL", "")
A_POINT = Point(str(uuid.UUID(int=1)), {"n": 1})


class LocalStore(QdrantStore):
    """A store of a client that it shares, and so does not close."""

    def close(self) -> None:
        """Nothing: the client is the alias's."""


@pytest.fixture(params=["memory", "edge", "client-local", "server"])
def alias(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Alias]:
    """An alias that points nowhere."""
    if request.param == "server" and not SERVER:
        pytest.skip("SYNCLINE_TEST_QDRANT_URL is not set")
    name = f"alias-{uuid.uuid4()}"
    client = QdrantClient(url=SERVER) if request.param == "server" else QdrantClient(":memory:")
    makers: dict[str, Callable[[], Alias]] = {
        "memory": lambda: MemoryAlias(name),
        "edge": lambda: EdgeAlias(tmp_path, name),
        "client-local": lambda: QdrantAlias(client, name, lambda c: LocalStore(client, c)),
        "server": lambda: QdrantAlias(client, name, lambda c: connect(SERVER, collection=c)),
    }
    subject = makers[request.param]()
    yield subject
    for left in {*subject.collections(), subject.name}:
        if request.param == "server":
            client.delete_collection(left)
    client.close()


def make(alias: Alias, ending: str, *, points: int = 0) -> str:
    """A collection named as an index is."""
    name = f"{alias.name}-{ending * 12}"
    store = alias.open(name)
    store.create(8)
    store.upsert([A_POINT] * points)
    store.close()
    return name


def test_it_names_one_collection_and_moves(alias: Alias) -> None:
    """Nowhere at first, then where it was pointed to; again is nothing."""
    assert alias.target() is None and alias.collections() == []
    a, b = make(alias, "a"), make(alias, "b")
    assert alias.target() is None and alias.collections() == [a, b]
    for name in (a, a, b, a):
        alias.point_to(name)
        assert alias.target() == name
    assert alias.collections() == [a, b]


def test_it_points_to_nothing_that_does_not_exist(alias: Alias) -> None:
    """Refused; it stays where it was."""
    a = make(alias, "a")
    alias.point_to(a)
    with pytest.raises(Misconfigured):
        alias.point_to(f"{alias.name}-{'f' * 12}")
    assert alias.target() == a


def test_what_does_not_serve_is_removed_whole(alias: Alias) -> None:
    """Its points are gone when it is made again; twice is once; the other is untouched."""
    a, b = make(alias, "a", points=1), make(alias, "b", points=1)
    alias.point_to(b)
    alias.remove(a)
    alias.remove(a)
    assert alias.collections() == [b]
    again, kept = alias.open(make(alias, "a")), alias.open(b)
    assert (again.count(All(conditions=())), kept.count(All(conditions=()))) == (0, 1)
    again.close()
    kept.close()


def test_what_serves_is_not_removed(alias: Alias) -> None:
    """Refused with a remedy, and still there."""
    a = make(alias, "a", points=1)
    alias.point_to(a)
    with pytest.raises(Misconfigured, match="serves"):
        alias.remove(a)
    assert alias.collections() == [a] and alias.target() == a


def test_a_collection_of_its_name_serves_and_stays(alias: Alias) -> None:
    """Made without an alias, it serves under its own name, and no alias can take its place."""
    store = alias.open(alias.name)
    store.create(8)
    store.close()
    assert alias.target() == alias.name and alias.collections() == []
    with pytest.raises(Misconfigured, match="new name"):
        alias.point_to(make(alias, "a"))
    assert alias.target() == alias.name


def test_collections_of_others_are_none_of_its(alias: Alias) -> None:
    """A name that only begins like ours is another's."""
    for name in (f"{alias.name}-prod", f"{alias.name}-{'a' * 12}-old", f"x{alias.name}"):
        store = alias.open(name)
        store.create(8)
        store.close()
    assert alias.collections() == []


def test_a_reader_always_finds_a_target(alias: Alias) -> None:
    """While it moves to and fro, it points to one or the other, never nowhere."""
    a, b = make(alias, "a"), make(alias, "b")
    alias.point_to(a)
    seen, over = set[str | None](), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(alias.target())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for name in [b, a] * 30:
            alias.point_to(name)
    finally:
        over.set()
        reader.join()
    assert seen <= {a, b}
