"""`load` into a real server: doing it twice changes nothing, what is wrong harms only itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bson import encode

from syncline.errors import Misconfigured
from syncline.load import BATCH_DOCUMENTS, MAX_DOCUMENT_BYTES, LoadReport, load, load_documents
from tests.servers import Mongo


def counts(report: LoadReport) -> tuple[int, int, int]:
    return report.written, report.unchanged, report.problem_count


def test_loading_twice_makes_no_change_events(mongo: Mongo, tmp_path: Path) -> None:
    """Unchanged documents of every kind, odd `_id`s and NaN included, are not written again."""
    (tmp_path / "a.md").write_text("# A\n")
    (tmp_path / "b.jsonl").write_text(
        '{"x": {"$numberDouble": "NaN"}, "_id": {"b": 1, "a": 2}}\n'
        '{"_id": {"$uuid": "c8edabc3-f738-4ca3-b68d-ab92a91478a3"}}\n'
        '{"_id": 1, "n": {"$numberLong": "1"}}\n'
    )
    assert counts(load([tmp_path], mongo.db["docs"])) == (4, 0, 0)
    with mongo.db.watch() as events:
        assert counts(load([tmp_path], mongo.db["docs"])) == (0, 4, 0)
        (tmp_path / "a.md").write_text("# B\n")
        assert counts(load([tmp_path], mongo.db["docs"])) == (1, 3, 0)
        event = next(events)
    assert event["documentKey"] == {"_id": "a.md"}
    assert event["fullDocument"]["title"] == "B"


def test_more_than_one_batch_and_the_later_of_equal_ids(mongo: Mongo) -> None:
    """All of several batches arrive; of one `_id` within a batch the later document counts."""
    documents: list[dict[str, Any]] = [{"_id": n, "n": n} for n in range(BATCH_DOCUMENTS + 5)]
    again = [*documents, {"_id": BATCH_DOCUMENTS, "n": "later"}]
    assert counts(load_documents(again, mongo.db["docs"])) == (len(documents), 0, 0)
    assert mongo.db["docs"].count_documents({}) == len(documents)
    assert mongo.db["docs"].find_one({"_id": BATCH_DOCUMENTS}) == {
        "_id": BATCH_DOCUMENTS,
        "n": "later",
    }


def test_a_document_at_the_limit_is_loaded_and_one_above_is_reported(mongo: Mongo) -> None:
    """Exactly MongoDB's largest document passes, one byte more is a problem that says so."""
    text = "x" * (MAX_DOCUMENT_BYTES - len(encode({"_id": 1, "text": ""})))
    documents: list[dict[str, Any]] = [{"_id": 1, "text": text}]
    documents += [{"_id": 2, "text": text + "x"}, {"_id": 3}]
    report = load_documents(documents, mongo.db["docs"])
    assert counts(report) == (2, 0, 1)
    assert report.problems[0].startswith("2: 16,777,217 bytes")
    assert mongo.db["docs"].distinct("_id") == [1, 3]


def test_what_bson_cannot_hold_is_reported(mongo: Mongo) -> None:
    """A number beyond 64 bits and a broken string are problems; their neighbours are loaded."""
    documents: list[dict[str, Any]] = [
        {"_id": 1, "n": 2**70},
        {"_id": 2, "s": "\ud800"},
        {"_id": 3},
    ]
    assert counts(load_documents(documents, mongo.db["docs"])) == (1, 0, 2)


def test_what_the_server_refuses_is_reported(mongo: Mongo) -> None:
    """Of three documents one breaks a unique index: a problem with its `_id`, the others stay."""
    mongo.db["docs"].create_index("k", unique=True)
    documents = [{"_id": n, "k": k} for n, k in enumerate("aab")]
    report = load_documents(documents, mongo.db["docs"])
    assert counts(report) == (2, 0, 1)
    assert report.problems[0].startswith("1: ")


def test_two_files_of_one_name_are_not_mixed_up(mongo: Mongo, tmp_path: Path) -> None:
    """The first is loaded, the second is reported, however often it is done."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text(f"# {folder}\n")
    paths = [tmp_path / "a", tmp_path / "b"]
    assert counts(load(paths, mongo.db["docs"])) == (1, 0, 1)
    report = load(paths, mongo.db["docs"])
    assert counts(report) == (0, 1, 1)
    assert "b/README.md: left out" in report.problems[0]


def test_a_missing_path_stops_before_anything_is_written(mongo: Mongo, tmp_path: Path) -> None:
    """A typing error in the last path does not leave half a load."""
    (tmp_path / "a.md").write_text("# A\n")
    with pytest.raises(Misconfigured, match="missing"):
        load([tmp_path / "a.md", tmp_path / "missing.md"], mongo.db["docs"])
    assert mongo.db["docs"].count_documents({}) == 0
