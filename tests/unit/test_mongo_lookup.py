"""References become documents; what cannot be read is told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from connectors.mongo_lookup import MongoLookup
from connectors.pulsar_lane import Arriving
from models.ids import key_of
from models.records import Delete, Failed, Key, Timestamp, Upsert, Version
from models.wire import Reference
from syncline.control import Control
from syncline.errors import Stopped, Unavailable
from tests.pipeline import gone, put


class Reader:
    """A `DocumentReader` over lists; `refusals` says how often it is away first."""

    def __init__(self, **collections: list[dict[str, Any]]) -> None:
        self.collections = collections
        self.now = Timestamp(100, 1)
        self.refusals = 0
        self.asked: list[tuple[str, list[Any]]] = []

    def cluster_time(self) -> Timestamp:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("mongo", "told to refuse")
        return self.now

    def find_many(self, collection: str, ids: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
        self.asked.append((collection, [*ids]))
        yield [d for d in self.collections.get(collection, []) if d["_id"] in ids]

    def list_collections(self) -> list[str]:
        raise NotImplementedError

    def estimate(self, collection: str) -> int:
        raise NotImplementedError

    def read(self, collection: str) -> Iterator[list[dict[str, Any]]]:
        raise NotImplementedError

    def find_existing(self, collection: str, ids: Sequence[Any]) -> list[Any]:
        raise NotImplementedError


def refer(id_: Any, at: int, collection: str = "notes", snapshot: bool = False) -> Reference:
    key = key_of(collection, id_)
    return Reference(key=key, version=Version(at, 1), snapshot=snapshot)


def test_order_is_kept() -> None:
    """Documents stand where their references stood, and what was none passes as it is."""
    reader = Reader(notes=[{"_id": 1, "text": "one"}], other=[{"_id": None}])
    first, last = put(9, (5, 1)), gone(9, (6, 1))
    batch: list[Arriving] = [first, refer(1, 7), refer(None, 8, "other", snapshot=True), last]
    assert MongoLookup(reader, Control()).resolve(batch) == [
        first,
        Upsert(key=key_of("notes", 1), version=Version(7, 1), fields={"_id": 1, "text": "one"}),
        Upsert(
            key=key_of("other", None), version=Version(8, 1), fields={"_id": None}, snapshot=True
        ),
        last,
    ]


def test_gone_is_a_delete_at_that_version() -> None:
    """A document that is no longer there is deleted at the version of its reference."""
    resolved = MongoLookup(Reader(), Control()).resolve([refer("a", 7)])
    assert resolved == [Delete(key=key_of("notes", "a"), version=Version(7, 1))]


def test_each_document_is_asked_for_once() -> None:
    """Several references to one document, as after a redelivery, are one lookup."""
    reader = Reader(notes=[{"_id": 1}])
    MongoLookup(reader, Control()).resolve([refer(1, 7), refer(1, 8), refer(1, 7)])
    assert reader.asked == [("notes", [1])]


def test_no_references_ask_nothing() -> None:
    """MongoDB may be away as long as nothing refers to it."""
    reader = Reader()
    reader.refusals = 10**6
    assert MongoLookup(reader, Control()).resolve([gone(1, (5, 1))]) == [gone(1, (5, 1))]


@pytest.mark.parametrize("reader", [Reader(notes=[{"_id": 1}]), None], ids=["reader", "none"])
def test_unreadable_references_fail_alone(reader: Reader | None) -> None:
    """Without a MongoDB, or with an _id that is no Extended JSON, one document fails."""
    broken = Reference(key=Key("notes", "{"), version=Version(7, 1))
    failed, other = MongoLookup(reader, Control()).resolve([broken, refer(1, 8)])
    assert isinstance(failed, Failed)
    assert (failed.key, failed.version, failed.failure.step) == (
        broken.key,
        broken.version,
        "reference",
    )
    assert isinstance(other, Upsert if reader else Failed)


def test_waits_while_mongo_is_away() -> None:
    """A MongoDB that is away is waited for."""
    reader = Reader(notes=[{"_id": 1}])
    reader.refusals = 1
    control = Control()
    assert isinstance(MongoLookup(reader, control).resolve([refer(1, 7)])[0], Upsert)
    assert control.waiting == {}


def test_waits_for_a_server_that_is_behind() -> None:
    """A server that has not seen the change yet is not believed when it says that it is gone."""
    reader = Reader()
    reader.now = Timestamp(6, 9)
    control = Control()
    control.request_stop()
    with pytest.raises(Stopped, match="newest changes"):
        MongoLookup(reader, control).resolve([refer(1, 7)])
    assert reader.asked == []
