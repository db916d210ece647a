"""A new recipe with no downtime: built beside the old index, switched in one step, resumable."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.index import Index
from connectors.qdrant_edge import EdgeStore
from connectors.qdrant_edge_alias import EdgeAlias
from models.embedders import HashEmbedder
from models.ids import key_of
from models.records import Timestamp, Upsert, Version
from retriever.records import SearchRequest
from syncline.errors import Misconfigured
from syncline.local.mongo import LocalMongo
from syncline.making import plan_making
from syncline.rules import MappingRule
from tests.pipeline import paragraphs
from tests.reindexing import (
    LARGE,
    SMALL,
    Deployment,
    Searching,
    Writing,
    read_time,
)
from tests.servers import Mongo
from transforms.chunk import Chunker
from transforms.clean import clean
from transforms.map import map_document

FIXED = {f"f{n}": paragraphs(12, p1=f"Document {n} is about keeper number {n}.") for n in range(20)}


@pytest.fixture
def uri(mongo_server: LocalMongo) -> str:
    return mongo_server.uri


@pytest.fixture
def deployment(mongo: Mongo, tmp_path: Path) -> Deployment:
    """Twenty documents that never change, in a database that nothing syncs yet."""
    mongo.db["fixed"].insert_many([{"_id": k, "text": text} for k, text in FIXED.items()])
    return Deployment(mongo, tmp_path)


def directories(deployment: Deployment) -> set[str]:
    """The collections on disk."""
    found = (deployment.data_dir / "index").iterdir()
    return {path.name for path in found if not path.is_symlink()}


def chunks_of(tokens: int) -> set[tuple[str, str]]:
    """Document and text of every chunk of the fixed documents."""

    chunker = Chunker(HashEmbedder(64), tokens)
    found = set()
    for id_, text in FIXED.items():
        change = Upsert(
            key=key_of("fixed", id_), version=Version(1, 1), fields={"_id": id_, "text": text}
        )
        document = map_document(change, MappingRule())
        assert document is not None
        found |= {(id_, c.text) for c in chunker.chunk(document.title, clean(document))}
    return found


def test_another_chunk_size_during_writes_and_searches(deployment: Deployment, uri: str) -> None:
    """No search fails or mixes, `as_of` never goes back, what was deleted stays so, no drift."""
    with deployment.running(uri) as now, Writing(deployment.mongo) as writing:
        now.wait_for(lambda: now.found("walrus"))
        with Searching(now) as searching:
            deployment.settings["chunk"] = LARGE
            with now.indexes.pinned():
                assert now.indexes.reindex()["building"]["chunk_tokens"] == LARGE
                began = writing.written
                now.wait_for(lambda: now.is_complete() and writing.written > began + 90)
                assert now.chunk_tokens == SMALL, "not before it may"
            now.wait_for(lambda: now.chunk_tokens == LARGE)
            switched = len(searching.answers)
            now.wait_for(lambda: len(searching.answers) > switched + 20)
        assert searching.error is None and now.states_at_moves == ["stopped"]
    small, large = chunks_of(SMALL), chunks_of(LARGE)
    assert not small & large
    recipes = [(hits <= small) - (hits <= large) for _, hits in searching.answers if hits]
    assert set(recipes) == {1, -1} and recipes == sorted(recipes, reverse=True)
    times = [read_time(as_of) for as_of, _ in searching.answers]
    assert times == sorted(times)
    with deployment.running(uri) as now:
        now.settle()
        assert now.chunk_tokens == LARGE and now.building() is None
        assert writing.deleted and not now.found("walrus") & writing.deleted
        assert now.drift() == {}


def test_a_changed_model_is_noticed_at_start(deployment: Deployment, uri: str) -> None:
    """The old one answers with its own model until the new one, of another dimension, has caught
    up; a restart amid it changes nothing, and the flow of the old one goes on."""
    with deployment.running(uri) as now:
        now.settle()
        before = now.collection
    deployment.settings["model"] = "hash:128"
    for _ in range(2):
        with deployment.running(uri, hold=True) as now:
            assert now.collection == before and now.building()
            deployment.mongo.db["fixed"].insert_one({"text": "zeppelin"})
            now.wait_for(lambda: now.found("zeppelin"))
            now.wait_for(now.is_complete)
        deployment.mongo.db["fixed"].delete_many({"text": "zeppelin"})
    with deployment.running(uri) as now:
        now.wait_for(lambda: now.building() is None)
        status = now.indexes.status()
        assert status["serving"]["model"] == "hash-128" and status["retired"] == [before]
        now.settle()
        assert now.indexes.serving.search(SearchRequest(query="keeper", mode="dense")).hits
        assert not now.found("zeppelin") and now.drift() == {}


def test_what_is_taken_back_says_anew_how_far_it_is(deployment: Deployment, uri: str) -> None:
    """Its watermark may be of a future that a restore of the database has undone."""
    with deployment.running(uri) as now:
        now.settle()
        first = now.collection
    deployment.settings["chunk"] = LARGE
    with deployment.running(uri) as now:
        now.wait_for(lambda: now.collection != first)
    store = EdgeStore(deployment.data_dir / "index" / first)
    position = Index(store).position()
    assert position is not None and position.watermark is not None
    future = Timestamp(position.watermark.seconds + 1_000, 0)
    Index(store).put_position(position.model_copy(update={"watermark": future}))
    store.flush()
    store.close()
    deployment.settings["chunk"] = SMALL
    with deployment.running(uri) as now:
        now.wait_for(lambda: now.collection == first)
        assert Timestamp(0, 0) < now.as_of() < future


def test_abandoned_and_begun_again(deployment: Deployment, uri: str) -> None:
    """What was being built is gone from disk, what serves goes on, and it can still be built."""
    with deployment.running(uri) as now:
        now.settle()
        before = directories(deployment)
        deployment.settings["chunk"] = LARGE
        with now.indexes.pinned():
            now.indexes.reindex()
            now.wait_for(now.is_complete)
            assert len(directories(deployment)) == 2
            assert now.indexes.reindex(abandon=True)["building"] is None
            now.wait_for(lambda: directories(deployment) == before)
        deployment.mongo.db["fixed"].insert_one({"text": "zeppelin"})
        now.wait_for(lambda: now.found("zeppelin"))
        assert now.chunk_tokens == SMALL
        now.indexes.reindex()
        now.wait_for(lambda: now.chunk_tokens == LARGE)
        now.settle()
        assert now.drift() == {}


def test_a_build_that_fails_harms_only_itself(deployment: Deployment, uri: str) -> None:
    """The status says why, the old one serves and is synced, and another try can succeed."""
    with deployment.running(uri) as now:
        deployment.settings["chunk"] = LARGE
        with now.indexes.pinned():
            name = now.indexes.reindex()["building"]["collection"]
            now.indexes.reindex(abandon=True)
            now.wait_for(lambda: name not in directories(deployment))
        in_the_way = deployment.data_dir / "index" / name
        in_the_way.touch()
        now.indexes.reindex()
        now.wait_for(lambda: (now.building() or {}).get("error"))
        deployment.mongo.db["fixed"].insert_one({"text": "zeppelin"})
        now.wait_for(lambda: now.found("zeppelin"))
        assert now.indexes.ready()[0] and now.chunk_tokens == SMALL
        in_the_way.unlink()
        now.indexes.reindex()
        now.wait_for(lambda: now.chunk_tokens == LARGE)


def test_the_old_one_is_kept_for_its_grace(deployment: Deployment, uri: str) -> None:
    """To go back to without embedding anything; over restarts; then it is removed."""
    with deployment.running(uri) as now:
        now.settle()
        old = now.collection
    deployment.settings["chunk"] = LARGE
    with deployment.running(uri) as now:
        now.wait_for(lambda: now.collection != old)
        new = now.collection
        deployment.mongo.db["fixed"].delete_one({"_id": "f1"})
        now.settle()
    deployment.settings["chunk"] = SMALL
    with deployment.running(uri) as now:
        now.wait_for(lambda: now.collection == old)
        now.settle()
        assert now.indexes.telemetry.embedded_total == 0
        assert "f1" not in now.found("keeper") and now.drift() == {}
        assert now.indexes.status()["retired"] == [new]
    with deployment.running(uri) as now:
        now.wait_for(lambda: now.indexes.status()["retired"] == [new])
        assert directories(deployment) == {old, new}
    deployment.settings["grace"] = 0
    with deployment.running(uri) as now:
        now.wait_for(lambda: directories(deployment) == {old})
        assert now.collection == old and now.indexes.status()["retired"] == []


def test_what_is_embedded_already_is_not_computed_again(deployment: Deployment, uri: str) -> None:
    """Documents of one chunk in either size take their vectors from the old index."""
    deployment.mongo.db["fixed"].delete_many({})
    deployment.mongo.db["short"].insert_many([{"text": f"keeper {n}"} for n in range(50)])
    with deployment.running(uri) as now:
        now.settle()
        embedded = now.indexes.telemetry.embedded_total
        deployment.settings["chunk"] = LARGE
        now.indexes.reindex()
        now.wait_for(lambda: now.chunk_tokens == LARGE)
        assert now.indexes.telemetry.embedded_total == embedded >= 50
        assert now.drift() == {}


def test_an_alias_moved_by_others_is_told(deployment: Deployment, uri: str) -> None:
    """A process does not go on syncing an index that no longer serves."""
    other = EdgeAlias(deployment.data_dir / "index", "syncline")
    with deployment.running(uri) as now:
        deployment.settings["chunk"] = LARGE
        with now.indexes.pinned():
            name = now.indexes.reindex()["building"]["collection"]
            now.wait_for(now.is_complete)
            (deployment.data_dir / "index" / "elsewhere").mkdir()
            other.point_to("elsewhere")
            with pytest.raises(Misconfigured, match="moved the alias"):
                now.wait_for(lambda: False)
            assert name in directories(deployment)


def test_a_collection_without_an_alias_is_refused(deployment: Deployment, uri: str) -> None:
    """It is synced and served as it is; another recipe is refused with what to do."""
    wanted = plan_making(deployment.config())
    store = EdgeStore(deployment.data_dir / "index" / "syncline")
    Index(store).open(wanted.recipe)
    store.close()
    with deployment.running(uri) as now:
        now.settle()
        assert now.collection == "syncline"
        deployment.settings["chunk"] = LARGE
        with pytest.raises(Misconfigured, match=r"new name"):
            now.indexes.reindex()
        assert now.building() is None
    with pytest.raises(Misconfigured, match=r"new name"), deployment.running(uri):
        pass
