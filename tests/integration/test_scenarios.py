"""`syncline up` as a user runs it: processes of its own, driven through MongoDB and HTTP only.

Every scenario runs in both topologies: direct, and with a broker between capture and index.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId, encode
from bson.binary import Binary
from pymongo import MongoClient

from syncline.client import Client
from syncline.running import running
from tests.pipeline import paragraphs

HASH = {"SYNCLINE_EMBEDDER_MODEL": "hash:128"}
TOPOLOGIES = {"direct": (), "pulsar": ("--with-pulsar", "--replicas", "2")}


@pytest.fixture(scope="module", params=[*TOPOLOGIES.values()], ids=[*TOPOLOGIES])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What `syncline up` is started with."""
    given: tuple[str, ...] = request.param
    return given


class Running:
    """A running Syncline and its database."""

    def __init__(self, facts: Mapping[str, Any], data_dir: Path) -> None:
        self.facts = facts
        self.data_dir = data_dir
        self.http = Client(facts["http"], timeout_seconds=30)
        self.mongo: MongoClient[dict[str, Any]] = MongoClient(
            facts["mongo"], uuidRepresentation="standard"
        )
        self.db = self.mongo["syncline"]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.mongo.close()
        self.http.close()

    def hits(self, query: str, mode: str = "hybrid", **where: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.search(
            query, limit=20, mode=mode, filter=where or {}
        )["hits"]
        return found

    def document(self, collection: str, doc_id: str) -> dict[str, Any] | None:
        return self.http.document(collection, doc_id)

    def embedded(self) -> int:
        total: int = self.http.status()["embedded_total"]
        return total

    def settle(self, seconds: float = 30) -> None:
        """Wait until everything written so far is in the index and acknowledged."""
        # A command's own time, in a session: what was written before it is behind it.
        self.db["settled"].replace_one({"_id": 1}, {"n": time.time(), "text": ""}, upsert=True)
        mark = self.mongo.admin.command("ping")["operationTime"]
        eventually(lambda: _passed(self.http.status()["watermark"], (mark.time, mark.inc)), seconds)


def _passed(watermark: str | None, mark: tuple[int, int]) -> bool:
    if watermark is None:
        return False
    seconds, increment = watermark.split(".")
    return (int(seconds), int(increment)) >= mark


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Poll until it holds; its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return value


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...]) -> Iterator[Running]:
    data_dir = tmp_path_factory.mktemp("up")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HASH.items():
            patch.setenv(name, value)
        with running(data_dir, *options) as facts, Running(facts, data_dir) as app:
            yield app


@pytest.fixture
def notes(app: Running, request: pytest.FixtureRequest) -> Any:
    return app.db[f"notes_{abs(hash(request.node.name)) % 10**8}"]


def test_an_insert_is_found_in_every_mode(app: Running, notes: Any) -> None:
    """A document is searchable by dense, sparse and hybrid search, with its fields."""
    notes.insert_one({"_id": "tea", "title": "Tea", "text": "Steep oolong gently.", "tag": "x"})
    for mode in ("dense", "sparse", "hybrid"):
        hit = eventually(partial(app.hits, "oolong", mode, collection=notes.name))[0]
        assert (hit["document_id"], hit["collection"]) == ("tea", notes.name)
        assert (hit["title"], hit["text"], hit["position"]) == ("Tea", "Steep oolong gently.", 0)
        assert hit["metadata"]["tag"] == "x"


def test_one_paragraph_of_a_long_document(app: Running, notes: Any) -> None:
    """Editing one paragraph embeds a few chunks; editing a tag embeds none."""
    notes.insert_one({"_id": 1, "text": paragraphs(900), "tag": "old"})
    app.settle()
    chunks = app.document(notes.name, "1")["chunks"]  # type: ignore[index]
    assert len(chunks) >= 60
    before = app.embedded()
    notes.update_one({"_id": 1}, {"$set": {"text": paragraphs(900, p200="A zeppelin passed.")}})
    app.settle()
    assert 1 <= app.embedded() - before <= 5
    assert app.hits("zeppelin", "sparse", collection=notes.name)
    before = app.embedded()
    notes.update_one({"_id": 1}, {"$set": {"tag": "new"}})
    eventually(lambda: app.hits("keeper", collection=notes.name, tag="new"))
    assert app.hits("keeper", collection=notes.name, tag="old") == []
    assert app.embedded() == before


def test_shortened_deleted_dropped_renamed(app: Running, notes: Any) -> None:
    """Nothing stale is ever found."""
    name = notes.name
    notes.insert_many([{"_id": n, "text": f"walrus {paragraphs(30)}"} for n in range(3)])
    app.settle()
    notes.update_one({"_id": 0}, {"$set": {"text": "short now"}})
    notes.delete_one({"_id": 1})
    app.settle()
    assert {h["document_id"] for h in app.hits("walrus", "sparse", collection=name)} == {"2"}
    assert app.document(name, "1") is None
    before = app.embedded()
    notes.rename(f"{name}_moved")
    app.settle()
    assert app.hits("walrus", collection=name) == []
    moved = eventually(lambda: app.hits("walrus", "sparse", collection=f"{name}_moved"))
    assert {h["document_id"] for h in moved} == {"2"}
    assert app.embedded() == before, "a rename computes no vectors"
    app.db[f"{name}_moved"].drop()
    app.settle()
    assert app.hits("walrus", collection=f"{name}_moved") == []
    assert app.document(f"{name}_moved", "2") is None


def test_ids_of_any_type(app: Running, notes: Any) -> None:
    """Strings, numbers, ObjectIds, UUIDs and subdocuments name documents, in paths and filters."""
    oid, uid = ObjectId(), uuid.UUID(int=7)
    ids = ["seven", "7", 7, oid, uid, {"a": 1, "b": "x"}]
    notes.insert_many([{"_id": value, "text": f"narwhal {n}"} for n, value in enumerate(ids)])
    app.settle()
    binary = json.dumps({"$binary": {"base64": "AAAAAAAAAAAAAAAAAAAABw==", "subType": "04"}})
    paths = ["seven", '"7"', "7", json.dumps({"$oid": str(oid)}), binary, '{"a": 1, "b": "x"}']
    for n, path in enumerate(paths):
        found = app.document(notes.name, path)
        assert found is not None and found["chunks"][0]["text"] == f"narwhal {n}", path
    hits = app.hits("narwhal", collection=notes.name, document_id="seven")
    assert [hit["text"] for hit in hits] == ["narwhal 0"]
    notes.delete_many({})
    app.settle()
    assert app.hits("narwhal", collection=notes.name) == []


def test_bad_documents_harm_only_themselves(app: Running, notes: Any) -> None:
    """Wrong types fail and are listed; the last good version stays; a good one clears it."""
    notes.insert_one({"_id": "a", "text": "good gopher"})
    app.settle()
    notes.update_one({"_id": "a"}, {"$set": {"text": 5}})
    notes.insert_one({"_id": "pdf", "text": Binary(b"%PDF-1.4 nonsense")})
    notes.insert_one({"_id": "b", "text": "another gopher"})
    app.settle()
    failed = {f["document_id"]: f for f in app.http.failed(100) if f["collection"] == notes.name}
    assert set(failed) == {"a", "pdf"} and failed["a"]["step"] == "map"
    assert len(app.hits("gopher", collection=notes.name)) == 2
    notes.update_one({"_id": "a"}, {"$set": {"text": "better gopher"}})
    notes.delete_one({"_id": "pdf"})
    app.settle()
    assert [f for f in app.http.failed(100) if f["collection"] == notes.name] == []


def test_hostile_html_is_only_text(app: Running, notes: Any) -> None:
    """Scripts and navigation are lost, words stay, nothing breaks."""
    page = (
        "<html><head><script>alert('evilscript')</script></head><body><nav>menuword</nav>"
        "<h1>Heron</h1><p>The heron stands &lt;script&gt; still.</p>" + "<div>" * 5000
    )
    notes.insert_one({"_id": 1, "text": page})
    app.settle()
    (hit,) = app.hits("heron", "sparse", collection=notes.name)
    assert "heron stands <script> still" in hit["text"]
    assert app.hits("evilscript", "sparse", collection=notes.name) == []
    assert app.hits("menuword", "sparse", collection=notes.name) == []


def test_filters_of_every_kind(app: Running, notes: Any) -> None:
    """Values, lists, numbers, dates and booleans filter."""
    from datetime import UTC, datetime

    for n in range(4):
        notes.insert_one(
            {
                "_id": n,
                "text": "badger",
                "n": n,
                "tags": [f"t{n}", "all"],
                "at": datetime(2024, 1, 1 + n, tzinfo=UTC),
                "even": n % 2 == 0,
                "who": {"name": f"w{n}"},
            }
        )
    app.settle()

    def ids(**where: Any) -> set[str]:
        return {h["document_id"] for h in app.hits("badger", collection=notes.name, **where)}

    assert ids(n=2) == {"2"} and ids(n=[1, 2]) == {"1", "2"}
    assert ids(n={"gte": 1, "lt": 3}) == {"1", "2"}
    assert ids(tags="t3") == {"3"} and len(ids(tags="all")) == 4
    assert ids(at={"gt": "2024-01-02T00:00:00Z"}) == {"2", "3"}
    assert ids(even=True) == {"0", "2"} and ids(**{"who.name": "w1"}) == {"1"}


def test_a_document_of_fifteen_megabytes(app: Running, notes: Any) -> None:
    """The largest documents cross whole."""
    unit = "The quick brown fox jumps over the lazy dog while rain falls. "
    text = "\n\n".join(f"{n} {unit * 20}" for n in range(11_500))
    assert 14_000_000 < len(encode({"_id": 1, "text": text})) < 16_000_000
    notes.insert_one({"_id": 1, "text": text})
    eventually(lambda: app.document(notes.name, "1"), 100)
    found = app.document(notes.name, "1")
    assert found is not None
    assert found["chunks"][-1]["text"].split()[-1] == "falls."
    notes.delete_one({"_id": 1})
    app.settle()


def test_drop_database_and_on(app: Running) -> None:
    """After dropDatabase (which invalidates the stream) nothing is found and changes flow on."""
    app.db["doomed"].insert_one({"_id": 1, "text": "dodo"})
    eventually(lambda: app.hits("dodo", collection="doomed"))
    app.mongo.drop_database("syncline")
    eventually(lambda: not app.hits("dodo", collection="doomed"))
    app.db["doomed"].insert_one({"_id": 2, "text": "phoenix"})
    eventually(lambda: app.hits("phoenix", collection="doomed"))
    assert app.document("doomed", "1") is None


def test_as_of_contains_the_write(app: Running, notes: Any) -> None:
    """An answer whose `as_of` is at or past a write's operation time contains the write."""
    for n in range(10):
        with app.mongo.start_session() as session:
            notes.insert_one({"_id": n, "text": f"wombat{n}q"}, session=session)
            at = session.operation_time
        assert at is not None

        def answer(n: int = n) -> dict[str, Any]:
            return app.http.search(f"wombat{n}q", mode="sparse", filter={"collection": notes.name})

        mark = (at.time, at.inc)
        answered = eventually(lambda: _passed((a := answer())["as_of"], mark) and a)  # noqa: B023
        assert [hit["document_id"] for hit in answered["hits"]] == [str(n)]


def test_a_search_waits_for_a_write(app: Running, notes: Any) -> None:
    """A search that names a write's operation time contains it, with no second try."""
    for n in range(10):
        with app.mongo.start_session() as session:
            notes.insert_one({"_id": n, "text": f"quokka{n}q"}, session=session)
            at = session.operation_time
        assert at is not None
        found = app.http.search(f"quokka{n}q", mode="sparse", after=f"{at.time}.{at.inc}")
        assert [hit["document_id"] for hit in found["hits"]] == [str(n)]


def test_verify_finds_it_in_sync(app: Running, notes: Any) -> None:
    """`syncline verify --deep --json` on the running process: exit 0."""
    notes.insert_many([{"_id": n, "text": paragraphs(n + 1)} for n in range(30)])
    app.settle()
    command = ["verify", "--deep", "--json", "--data-dir", str(app.data_dir)]
    done = subprocess.run(
        [sys.executable, "-m", "syncline", *command], capture_output=True, text=True, timeout=100
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["in_sync"] and report["documents"] >= 30, done


def test_stop_and_start_embeds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """A restart goes on where it was; what was written meanwhile arrives; exit 0 within 10 s."""
    monkeypatch.setenv(*next(iter(HASH.items())))
    with running(tmp_path, *options) as facts, Running(facts, tmp_path) as app:
        app.db["notes"].insert_many([{"_id": n, "text": paragraphs(n + 1)} for n in range(50)])
        app.settle()
        before = app.http.status()
        started = time.monotonic()
        os.kill(facts["pid"], signal.SIGTERM)
        eventually(lambda: not alive(facts["pid"]), 10)
        assert time.monotonic() - started < 10
    with running(tmp_path, *options) as facts, Running(facts, tmp_path) as app:
        app.settle()
        after = app.http.status()
        assert after["embedded_total"] == 0 and after["chunks"] == before["chunks"]


def test_killed_in_the_middle_it_converges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """kill -9 during a backfill and edits; after a restart, `verify --deep` finds no drift."""
    monkeypatch.setenv(*next(iter(HASH.items())))
    with running(tmp_path, *options) as facts, Running(facts, tmp_path) as app:
        texts = [f"Night {n}. {paragraphs(n % 40)}" for n in range(400)]
        app.db["notes"].insert_many([{"_id": n, "text": text} for n, text in enumerate(texts)])
        app.db["notes"].delete_many({"_id": {"$lt": 50}})
        eventually(lambda: app.embedded() > 50)
        os.kill(facts["pid"], signal.SIGKILL)
    with running(tmp_path, *options) as facts, Running(facts, tmp_path) as app:
        app.db["notes"].update_many({"_id": {"$gt": 350}}, {"$set": {"text": "edited"}})
        app.settle()
        report = app.http.verify(deep=True, repair=False)
        assert report["in_sync"], report
        assert app.http.status()["documents"]["indexed"] == 350 + 1  # and the settling one


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_several_processes_clean_and_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `flow.processes` the index is the same: `verify --deep`, done in place, agrees."""
    monkeypatch.setenv(*next(iter(HASH.items())))
    monkeypatch.setenv("SYNCLINE_FLOW_PROCESSES", "2")
    with running(tmp_path) as facts, Running(facts, tmp_path) as app:
        app.db["notes"].insert_many([{"_id": n, "text": paragraphs(9 * n)} for n in range(40)])
        app.db["notes"].insert_one({"_id": "page", "text": "<p>a heron</p>" * 900})
        app.settle()
        report = app.http.verify(deep=True, repair=False)
        assert report["in_sync"] and report["documents"] == 42, report
