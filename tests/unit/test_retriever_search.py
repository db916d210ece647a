"""What a search finds and how it is told, over a real index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import ObjectId

from connectors.qdrant_edge import EdgeStore
from connectors.store import Store
from models.filters import InvalidFilter
from retriever.search import LARGEST_PAGE, Retriever
from tests.retrieval import NoModel, Shelf, texts

NORTH: dict[str, Any] = {"place.sea": "north"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One real engine for the module: making one is most of a test's time."""
    store = EdgeStore(tmp_path_factory.mktemp("edge") / "index")
    yield store
    store.close()


@pytest.fixture
def shelf(edge: Store) -> Shelf:
    made = Shelf(edge)
    return made


def test_a_hit_says_all_about_its_chunk(shelf: Shelf) -> None:
    """Every field of a hit comes from the entry or the chunk it belongs to."""
    shelf.put("log", "calm sea", "heavy storm", metadata={"year": 1901}, title="Logbook")
    [hit] = shelf.search("storm", mode="sparse").hits
    assert hit.model_dump(exclude={"id", "score"}) == {
        "document_id": "log",
        "collection": "notes",
        "position": 1,
        "title": "Logbook",
        "text": "heavy storm",
        "metadata": {"year": 1901},
    }
    assert hit.score > 0
    assert hit.id in shelf.index.chunks([hit.id])


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_the_best_match_comes_first_in_every_mode(shelf: Shelf, mode: Any) -> None:
    """Each mode ranks the chunk that shares the query's words highest, scores falling."""
    for name in ("gull", "whale", "lantern"):
        shelf.put(name, f"the {name} at night")
    hits = shelf.search("lantern night", mode=mode).hits
    assert hits[0].document_id == "lantern"
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_sparse_does_not_touch_the_model(shelf: Shelf) -> None:
    """A sparse search works with an embedder that refuses to work."""
    shelf.put("log", "heavy storm")
    shelf.retriever = Retriever(shelf.index, NoModel())
    assert texts(shelf.search("storm", mode="sparse").hits) == {"heavy storm"}


def test_dense_finds_what_shares_no_keyword_weight(shelf: Shelf) -> None:
    """A dense search does not use BM25: it answers a query of unknown words, sparse does not."""
    shelf.put("log", "heavy storm")
    assert len(shelf.search("zzz", mode="dense").hits) == 1
    assert shelf.search("zzz", mode="sparse").hits == ()


def test_dense_scores_are_cosines(shelf: Shelf) -> None:
    """The same words score 1, whatever BM25 makes of them."""
    shelf.put("log", "heavy storm")
    shelf.put("other", "calm sea")
    assert shelf.search("storm heavy", mode="dense").hits[0].score == pytest.approx(1, abs=1e-4)


def test_a_hybrid_query_without_words_still_answers(shelf: Shelf) -> None:
    """A query that BM25 has no term for is answered by the dense side alone."""
    shelf.put("log", "heavy storm")
    assert texts(shelf.search("?!", mode="hybrid").hits) == {"heavy storm"}


def test_the_limit_bounds_the_answer(shelf: Shelf) -> None:
    """No more hits than asked for, and all of them if there are fewer."""
    shelf.put("log", *(f"storm number {n}" for n in range(30)))
    assert len(shelf.search("storm", limit=7).hits) == 7
    assert len(shelf.search("storm", limit=100).hits) == 30


def test_as_of_is_the_watermark(shelf: Shelf) -> None:
    """`0.0` before the first watermark, then exactly the stored one."""
    assert shelf.search("storm").as_of == "0.0"
    shelf.reflect(77)
    assert shelf.search("storm").as_of == "77.1"


def test_took_ms_is_a_time(shelf: Shelf) -> None:
    """The time it took is told in milliseconds, above zero."""
    assert 0 < shelf.search("storm").took_ms < 10_000


def test_an_empty_index_answers_with_nothing(shelf: Shelf) -> None:
    """No documents is no error."""
    assert shelf.search("storm").hits == ()


# --- filters ----------------------------------------------------------------------------------


def test_filters_restrict_by_metadata_and_collection(shelf: Shelf) -> None:
    """Metadata and collection are filtered by, together."""
    shelf.put("a", "storm one", metadata={"year": 1901, "place": {"sea": "north"}})
    shelf.put("b", "storm two", metadata={"year": 1950})
    shelf.put("c", "storm three", collection="other", metadata={"year": 1901})
    assert texts(shelf.search("storm", year=1901).hits) == {"storm one", "storm three"}
    assert texts(shelf.search("storm", year={"gte": 1902}).hits) == {"storm two"}
    assert texts(shelf.search("storm", year=1901, collection="other").hits) == {"storm three"}
    assert texts(shelf.search("storm", **NORTH).hits) == {"storm one"}


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("file.name", {"storm nested"}),
        ('"file.name"', {"storm dotted"}),
        ('"file"."name"', {"storm nested"}),
        ('file."na.me"', {"storm both"}),
        ('"document_id"', {"storm shadowed"}),
    ],
)
def test_a_name_with_a_dot_is_quoted(shelf: Shelf, field: str, found: set[str]) -> None:
    """A bare dot leads into an object; quotes take a name as it is, ours included."""
    shelf.put("a", "storm nested", metadata={"file": {"name": "x"}})
    shelf.put("b", "storm dotted", metadata={"file.name": "x"})
    shelf.put("c", "storm both", metadata={"file": {"na.me": "x"}})
    shelf.put("d", "storm shadowed", metadata={"document_id": "x"})
    where: dict[str, Any] = {field: "x"}
    assert texts(shelf.search("storm", **where).hits) == found


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ("log", "log"),
        (7, 7),
        (7, "7"),
        (True, True),
        ({"a": 1}, {"a": 1}),
        (ObjectId("5f0c9f5e7d0b5b8e9d430a5f"), {"$oid": "5f0c9f5e7d0b5b8e9d430a5f"}),
        (ObjectId("5f0c9f5e7d0b5b8e9d430a5f"), '{"$oid": "5f0c9f5e7d0b5b8e9d430a5f"}'),
    ],
)
def test_document_id_is_filtered_as_hits_show_it(shelf: Shelf, stored: Any, given: Any) -> None:
    """A document id is found by its displayed text and by the JSON value behind it."""
    shelf.put(stored, "storm here")
    shelf.put("elsewhere", "storm there")
    assert texts(shelf.search("storm", document_id=given).hits) == {"storm here"}
    assert texts(shelf.search("storm", document_id=[given, "none"]).hits) == {"storm here"}


def test_the_document_id_of_a_hit_filters_for_it(shelf: Shelf) -> None:
    """What a hit shows as document id can be put back into a filter."""
    shelf.put({"b": 2, "a": ["x"]}, "storm here")
    shelf.put("elsewhere", "storm there")
    shown = shelf.search("here").hits[0].document_id
    assert texts(shelf.search("storm", document_id=shown).hits) == {"storm here"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("year", {"near": 3}),
        ("year", None),
        ("a..b", 1),
        ("", 1),
        ('a"b', 1),
        ('"a', 1),
        ('"a"b', 1),
        ('a.""', 1),
        ("a\\b", 1),
        ("year", list(range(1_001))),
        ("document_id", {"$oid": "not one"}),
    ],
)
def test_a_wrong_filter_names_its_field(shelf: Shelf, field: str, value: Any) -> None:
    """A filter outside of the grammar is refused before the store sees it."""
    with pytest.raises(InvalidFilter) as refused:
        shelf.search("storm", **{field: value})
    assert refused.value.field == field
    assert shelf.store.queries == 0


# --- what readers must not see ----------------------------------------------------------------


def test_chunks_that_no_entry_lists_are_not_found(shelf: Shelf) -> None:
    """Orphans, with an entry or without, stay invisible."""
    shelf.put("log", "storm listed")
    shelf.stage("log", "storm staged")
    shelf.stage("unknown", "storm unknown")
    assert texts(shelf.search("storm").hits) == {"storm listed"}


def test_a_deleted_document_is_not_found_even_while_its_chunks_stand(shelf: Shelf) -> None:
    """The tombstone decides, not the removal of the chunks."""
    shelf.put("log", "storm")
    kept = shelf.stage("log", "storm again")
    shelf.delete("log", at=20)
    assert shelf.index.chunks(kept)
    assert shelf.search("storm").hits == ()


def test_a_dropped_collection_is_hidden_before_it_is_swept(shelf: Shelf) -> None:
    """A collection's floor hides what is older at once, and nothing else."""
    shelf.put("old", "storm old", at=10)
    shelf.put("other", "storm other", at=10, collection="other")
    shelf.drop("notes", at=20)
    shelf.put("new", "storm new", at=30)
    assert texts(shelf.search("storm").hits) == {"storm new", "storm other"}
    assert shelf.retriever.document("notes", "old") is None


def test_a_new_snapshots_floor_hides_nothing(shelf: Shelf) -> None:
    """While everything is read again, what is known stays searchable."""
    shelf.put("old", "storm old", at=10)
    shelf.drop("*", at=20)
    assert texts(shelf.search("storm").hits) == {"storm old"}


def test_a_failed_documents_last_good_version_stays(shelf: Shelf) -> None:
    """Failure hides nothing that was good before."""
    shelf.put("log", "storm good")
    shelf.fail("log", at=20, chunks=shelf.stage("log", "storm good"))
    assert texts(shelf.search("storm").hits) == {"storm good"}


def test_many_invisible_chunks_do_not_crowd_out_the_visible(shelf: Shelf) -> None:
    """More invisible chunks of one document than a page holds leave the answer whole."""
    shelf.put("log", "storm among many other words")
    shelf.stage("huge", *(f"storm {n}" for n in range(LARGEST_PAGE + 200)))
    assert texts(shelf.search("storm", limit=1).hits) == {"storm among many other words"}


def test_an_edit_in_progress_does_not_crowd_out_the_old_version(shelf: Shelf) -> None:
    """Staged chunks of a document that exists are looked past, page by doubled page."""
    shelf.put("log", "storm among many other words")
    shelf.stage("log", *(f"storm {n}" for n in range(150)))
    assert texts(shelf.search("storm", limit=1).hits) == {"storm among many other words"}


# --- one document -----------------------------------------------------------------------------


def test_a_document_shows_its_entry_and_its_chunks_in_order(shelf: Shelf) -> None:
    """The view holds version, state, title, metadata and the chunks as listed."""
    shelf.put("log", "zeta", "alpha", "mid", at=12, title="Logbook", metadata={"year": 1901})
    view = shelf.retriever.document("notes", "log")
    assert view is not None
    assert [(c.position, c.text, c.headings) for c in view.chunks] == [
        (0, "zeta", ("Top",)),
        (1, "alpha", ("Top",)),
        (2, "mid", ("Top",)),
    ]
    assert view.model_dump(exclude={"chunks"}) == {
        "document_id": "log",
        "collection": "notes",
        "state": "indexed",
        "version": "12.1.0",
        "title": "Logbook",
        "metadata": {"year": 1901},
        "failure": None,
    }


def test_a_failed_document_says_why(shelf: Shelf) -> None:
    """State, step, reason and attempts of a failure are part of the view."""
    shelf.fail("log", at=20)
    view = shelf.retriever.document("notes", "log")
    assert view is not None
    assert (view.state, view.chunks) == ("failed", ())
    assert view.failure is not None
    assert (view.failure.step, view.failure.attempts) == ("map", 2)


def test_unknown_and_deleted_documents_are_none(shelf: Shelf) -> None:
    """Both look the same from outside."""
    shelf.put("log", "storm")
    shelf.delete("log", at=20)
    assert shelf.retriever.document("notes", "log") is None
    assert shelf.retriever.document("notes", "never") is None


def test_a_string_that_reads_as_json_needs_quotes(shelf: Shelf) -> None:
    """`7` is the number, `"7"` the string."""
    shelf.put(7, "the number")
    shelf.put("7", "the string")
    for asked, text in (("7", "the number"), ('"7"', "the string")):
        view = shelf.retriever.document("notes", asked)
        assert view is not None
        assert view.chunks[0].text == text


@pytest.mark.parametrize(
    "text",
    [
        '{"$oid": "zz"}',
        '{"$numberDecimal": "x"}',
        "[" * 5_000,
        '"\\ud800"',
        '{"$date": {"$numberLong": "9' + "9" * 30 + '"}}',
    ],
)
def test_an_id_that_is_no_extended_json_is_unknown(shelf: Shelf, text: str) -> None:
    """Whatever is asked for, the answer is only that it is not there."""
    assert shelf.retriever.document("notes", text) is None
