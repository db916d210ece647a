"""Old or new, never a mixture, never neither: writes that land in the middle of a search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from connectors.index import Index
from connectors.qdrant_edge import EdgeStore
from connectors.store import Store
from models.points import StoredChunk
from retriever.search import ROUNDS
from tests.retrieval import Shelf, texts

OLD = {"storm old one", "storm old two"}
NEW = {"storm new one", "storm new two"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One real engine for the module: making one is most of a test's time."""
    store = EdgeStore(tmp_path_factory.mktemp("edge") / "index")
    yield store
    store.close()


@pytest.fixture
def shelf(edge: Store) -> Shelf:
    made = Shelf(edge)
    made.put("log", *sorted(OLD), at=10)
    made.reflect(10)
    return made


def between(shelf: Shelf, *writes: Callable[[], object]) -> None:
    """Let the n-th write happen after the n-th query, before the ledger is read."""
    waiting = list(writes)

    def write_next() -> None:
        if waiting:
            waiting.pop(0)()

    shelf.store.after_query = write_next


def test_a_commit_between_query_and_entry_gives_the_new_version(shelf: Shelf) -> None:
    """The query saw the old chunks, the entry lists the new ones: the answer is the new ones."""
    between(shelf, lambda: shelf.put("log", *sorted(NEW), at=20))
    assert texts(shelf.search("storm").hits) == NEW


def test_chunks_stored_before_their_entry_give_the_old_version(shelf: Shelf) -> None:
    """The query saw both versions, the entry lists the old one: the answer is the old one."""
    shelf.stage("log", *sorted(NEW))
    assert texts(shelf.search("storm").hits) == OLD


def test_a_commit_after_both_were_seen_gives_the_new_version(shelf: Shelf) -> None:
    """The query saw both versions, then the entry moved: the answer is the new one."""
    staged = shelf.stage("log", *sorted(NEW))
    between(shelf, lambda: shelf.commit("log", staged, at=20))
    assert texts(shelf.search("storm").hits) == NEW


def test_a_part_of_the_new_version_is_not_taken_for_all_of_it(shelf: Shelf) -> None:
    """The query saw one new chunk, then the rest and the entry came: the answer is all of it."""
    shelf.put("log", "calm", at=11)
    shelf.stage("log", "storm new one")
    between(shelf, lambda: shelf.put("log", *sorted(NEW), at=20))
    assert texts(shelf.search("storm", mode="sparse").hits) == NEW


def test_a_first_version_is_there_whole_or_not_at_all(shelf: Shelf) -> None:
    """An insert that lands in the middle shows all of its chunks, also before any watermark."""
    shelf.delete("log", at=11)
    shelf.stage("new", "storm new one")
    between(shelf, lambda: shelf.put("new", *sorted(NEW), at=20))
    assert texts(shelf.search("storm", mode="sparse").hits) in (set(), NEW)


def test_a_repair_at_the_same_version_is_noticed(shelf: Shelf) -> None:
    """A commit that is not newer than the watermark is a race as well, where a hit is dropped."""
    between(shelf, lambda: shelf.put("log", *sorted(NEW), at=10))
    assert texts(shelf.search("storm").hits) == NEW


def test_a_second_write_in_the_second_round_is_noticed(shelf: Shelf) -> None:
    """Writes after the first and after the second query still leave one whole version."""
    third = {"storm third"}
    between(
        shelf,
        lambda: shelf.put("log", *sorted(NEW), at=20),
        lambda: shelf.put("log", *third, at=30),
    )
    assert texts(shelf.search("storm").hits) == third


def test_a_deletion_in_the_middle_gives_nothing(shelf: Shelf) -> None:
    """The query saw the chunks, the entry is a tombstone: deleted is the new version."""
    between(shelf, lambda: shelf.delete("log", at=20))
    assert shelf.search("storm").hits == ()


def test_the_rounds_are_bounded(shelf: Shelf) -> None:
    """A document that is rewritten after every query does not hold a search up for ever."""
    versions = iter(range(20, 1_000))
    shelf.store.after_query = lambda: shelf.put("log", f"storm {(v := next(versions))}", at=v)
    shelf.search("storm")
    assert shelf.store.queries == ROUNDS


def test_a_settled_index_is_asked_once(shelf: Shelf) -> None:
    """Without recent writes a search costs one query."""
    shelf.search("storm")
    assert shelf.store.queries == 1


def test_lasting_orphans_cost_one_more_query(shelf: Shelf) -> None:
    """A second look tells an orphan from a race; there is no third."""
    shelf.stage("log", "storm orphan")
    shelf.search("storm")
    assert shelf.store.queries == 2


def test_a_document_is_shown_in_one_version(shelf: Shelf) -> None:
    """A commit between reading an entry and its chunks does not tear the document's view."""

    class Racing(Index):
        def chunks(self, ids: Sequence[str]) -> dict[str, StoredChunk]:
            if "storm new one" not in {c.text for c in super().chunks(ids).values()}:
                shelf.put("log", *sorted(NEW), at=20)
            return super().chunks(ids)

    shelf.index.__class__ = Racing
    view = shelf.retriever.document("notes", "log")
    assert view is not None
    assert {chunk.text for chunk in view.chunks} == NEW


def test_searches_beside_a_busy_writer_see_whole_versions(shelf: Shelf) -> None:
    """300 searches beside real writes in another thread find exactly one version each time."""
    stop = threading.Event()

    def rewrite() -> None:
        version = 20
        while not stop.is_set():
            version += 1
            shelf.put("log", *(f"storm {version} part {n}" for n in range(4)), at=version)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        found = [shelf.search("storm", mode="sparse").hits for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    torn = [hits for hits in found if texts(hits) != OLD and not one_version(texts(hits))]
    assert torn == []


def one_version(found: set[str]) -> bool:
    """All four parts of one version, and nothing else."""
    return len(found) == 4 and len({text.split(" part ")[0] for text in found}) == 1
