"""Mapping: sensible without configuration, exact with it, and refusals that help."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from pydantic import ValidationError

from models.ids import key_of
from models.records import Document, Upsert, Version
from syncline.errors import Misconfigured, Rejected
from syncline.rules import MappingRule
from transforms.map import check_rule, content_digest, map_document, metadata_digest


def upsert(fields: dict[str, Any]) -> Upsert:
    return Upsert(key=key_of("c", 1), version=Version(1, 1), fields={"_id": 1, **fields})


def mapped(fields: dict[str, Any], **rule: Any) -> Document:
    document = map_document(upsert(fields), MappingRule(**rule))
    assert document is not None
    return document


def texts(document: Document) -> list[str | bytes]:
    return [part.content for part in document.parts]


def rejection(fields: dict[str, Any], **rule: Any) -> str:
    with pytest.raises(Rejected) as caught:
        map_document(upsert(fields), MappingRule(**rule))
    assert caught.value.step == "map"
    return caught.value.reason


def test_defaults() -> None:
    """Without a rule title, text and everything scalar beside them are found."""
    document = mapped({"title": " A \n B", "text": "Hello.", "tags": ["x", "y"], "n": 1})
    assert document.title == "A B"
    assert texts(document) == ["Hello."]
    assert document.metadata == {"tags": ["x", "y"], "n": 1}


@pytest.mark.parametrize(
    ("fields", "title", "expected"),
    [
        ({"Name": "N", "BODY": "b"}, "N", ["b"]),
        ({"title": None, "name": "N", "text": " ", "content": "c"}, "N", ["c"]),
        ({"title": {"x": 1}, "name": 1984}, "1984", []),
        ({"text": "t", "content": "c"}, "", ["t"]),
        ({"text": ["a", None, "", "b"]}, "", ["a", "b"]),
        ({"content": {"h": "a", "n": 3, "p": ["b", {"q": "c", "r": True}]}}, "", ["a", "b", "c"]),
        ({"body": {"mass": 3.0}}, "", []),
        ({"text": None}, "", []),
        ({"text": ""}, "", []),
        ({}, "", []),
    ],
)
def test_default_title_and_text(fields: dict[str, Any], title: str, expected: list[str]) -> None:
    """The first of the usual fields that has text, in any case, as crawlers nest it."""
    document = mapped(fields)
    assert (document.title, texts(document)) == (title, expected)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (123, "int 123"),
        (True, "bool True"),
        (1.5, "float 1.5"),
        (datetime(2026, 1, 1), "datetime"),
        (ObjectId(), "ObjectId"),
        ([1, 2], "a list of 2"),
        (Binary(b"x" * 16, 4), "16 bytes"),
    ],
)
def test_text_of_wrong_type_is_rejected(value: Any, shown: str) -> None:
    """A text that is none is refused with field, type and value."""
    reason = rejection({"text": value})
    assert 'field "text" holds' in reason
    assert shown in reason
    assert "mapping" in reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC), "2026-01-02T03:04:05.678Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T22:00:00Z"),
        (DatetimeMS(0), "1970-01-01T00:00:00Z"),
        (Timestamp(0, 1), "1970-01-01T00:00:00Z"),
        (ObjectId("0" * 24), "0" * 24),
        (Decimal128("19.99"), 19.99),
        (Int64(2**62), 2**62),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Binary.from_uuid(uuid.UUID(int=1)), str(uuid.UUID(int=1))),
        ([1, None, "a", {"b": 1}], [1, "a"]),
        ([], []),
        ({"a": {"b.c": 1, "$d": 2, "e": None}}, {"a": {"b.c": 1, "$d": 2}}),
        (Code("f()"), "f()"),
    ],
)
def test_metadata_values(value: Any, expected: Any) -> None:
    """BSON values become JSON values that a filter can find, and stay so through JSON."""
    metadata = mapped({"v": value}).metadata
    assert metadata == {"v": expected}
    assert json.loads(json.dumps(metadata)) == metadata


@pytest.mark.parametrize(
    "value",
    [
        None,
        float("nan"),
        float("inf"),
        Decimal128("NaN"),
        Decimal128("1E+6000"),
        DatetimeMS(2**60),
        b"bytes",
        Binary(b"short", 4),
        Regex("a"),
        MaxKey(),
        [{"a": 1}],
        {},
        "x" * 4_097,
        list(range(257)),
    ],
)
def test_left_out_of_metadata(value: Any) -> None:
    """What no filter could find, or is too long for a filter, is left out whole."""
    assert mapped({"v": value, "w": 1}).metadata == {"w": 1}


def test_named_metadata_is_kept_at_any_length() -> None:
    """What the rule asks for is kept, up to the limit of the whole, and refused beyond it."""
    assert mapped({"v": "x" * 5_000}, metadata=["v"]).metadata == {"v": "x" * 5_000}
    assert "65,536" in rejection({"v": "x" * 70_000}, metadata=["v"])


def test_rule_with_paths() -> None:
    """Paths lead through objects and lists, and what they use as text is not metadata."""
    fields = {"head": {"line": "T"}, "sections": [{"p": "a"}, {"p": "b"}], "m": {"x": 1, "t": "c"}}
    document = mapped(fields, title="head.line", text=["sections.p", "m.t"])
    assert (document.title, texts(document)) == ("T", ["a", "b", "c"])
    assert document.metadata == {"m": {"x": 1}}


def test_rule_with_templates() -> None:
    """Templates are filled with any scalar; without any value they are empty."""
    rule = {"title": "{brand}: {model.name}", "text": "{brand} costs {{}} {price}\n\n{more}"}
    full = mapped({"brand": "B", "model": {"name": "M"}, "price": 3, "more": ["x", "y"]}, **rule)
    assert (full.title, texts(full)) == ("B: M", ["B costs {} 3\n\nx, y"])
    assert full.metadata["brand"] == "B"
    assert mapped({"other": 1}, **rule).parts == ()


def test_rule_with_metadata_names() -> None:
    """A table names metadata; a list keeps paths, so that dotted filters find them."""
    fields = {"a": {"b": 1, "c": 2}, "d": 3}
    assert mapped(fields, metadata={"e": "a.b", "f": "d"}).metadata == {"e": 1, "f": 3}
    assert mapped(fields, metadata=["a.c"]).metadata == {"a": {"c": 2}}
    assert mapped(fields, metadata=[]).metadata == {}


def test_inclusion() -> None:
    """Documents that do not match the rule's filter are not mapped at all."""
    rule = MappingRule(include={"status": ["public"], "at": {"gte": "2026-01-01"}})
    good = {"status": "public", "at": datetime(2026, 5, 1)}
    assert map_document(upsert(good), rule) is not None
    assert map_document(upsert({**good, "at": datetime(2025, 5, 1)}), rule) is None
    assert map_document(upsert({"status": "draft", "text": 123}), rule) is None


def test_wrong_inclusion_is_found_before_the_start() -> None:
    """A filter outside of the grammar is refused with its place and a remedy."""
    check_rule("books", MappingRule(include={"a": 1}))
    with pytest.raises(Misconfigured, match=r"mapping\.books\.include.*'a'") as caught:
        check_rule("books", MappingRule(include={"a": {"ne": 1}}))
    assert "include =" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "rule", "expected"),
    [
        ("<!DOCTYPE html><p>x", {}, "html"),
        ("<h1>a</h1>\n<p>b</p>", {}, "html"),
        ("# Title\n\nText.", {}, "markdown"),
        ("See [a](https://a.b).\n\n```py\nx\n```\n", {}, "markdown"),
        ("# a comment\nx = f[i](y)\nz = 1 < 2\n", {}, "text"),
        ("Title\n~~~~~\n\n* a\n* b\n* c\n", {}, "text"),
        ("plain", {"content_type": "markdown"}, "markdown"),
        (b"%PDF-1.7 ...", {}, "pdf"),
        (b"PK\x03\x04...word/document.xml...", {}, "docx"),
        ("grüße".encode(), {"content_type": "text"}, "text"),
    ],
)
def test_content_type(content: str | bytes, rule: dict[str, Any], expected: str) -> None:
    """The type is what the rule says, else what the content clearly is."""
    (part,) = mapped({"text": content}, **rule).parts
    assert part.content_type == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("text/html; charset=utf-8", "html"), (".MD", "markdown"), ("a.docx", "docx"), (None, "text")],
)
def test_content_type_from_a_field(name: str | None, expected: str) -> None:
    """A field's MIME type, file name or extension decides; without one the content does."""
    content: str | bytes = b"x" if expected == "docx" else "x"
    rule = {"content_type": {"field": "mime"}}
    assert mapped({"text": content, "mime": name}, **rule).parts[0].content_type == expected


@pytest.mark.parametrize(
    ("fields", "rule", "words"),
    [
        ({"text": b"\x00\x01"}, {}, "PDF or DOCX"),
        ({"text": "x"}, {"content_type": "pdf"}, "binary data"),
        ({"text": b"caf\xe9"}, {"content_type": "text"}, "byte 3"),
        ({"text": "x", "mime": "image/png"}, {"content_type": {"field": "mime"}}, "image/png"),
        ({"text": "é" * 6}, {"max_bytes": 10}, "12 bytes of content are more than max_bytes = 10"),
        ({"a": {"b": 1}}, {"title": "a"}, "an object of 1 fields"),
    ],
)
def test_rejections_name_the_cause(fields: dict[str, Any], rule: Any, words: str) -> None:
    """What cannot be mapped is refused with its cause."""
    assert words in rejection(fields, **rule)


def test_digests_tell_content_from_metadata() -> None:
    """Content and metadata each have a digest that only their own changes touch."""
    base = mapped({"title": "t", "text": "a", "x": 1, "y": 2})
    again = mapped({"y": 2, "x": 1, "text": "a", "title": "t"})
    other = mapped({"title": "t", "text": "a", "x": 1, "y": 3})
    edited = mapped({"title": "t", "text": "b", "x": 1, "y": 2})
    split = mapped({"title": "t", "text": ["a", "b"]})
    assert content_digest(base) == content_digest(again) == content_digest(other)
    assert metadata_digest(base) == metadata_digest(again) == metadata_digest(edited)
    assert metadata_digest(base) != metadata_digest(other)
    assert len({content_digest(d) for d in (base, edited, split)}) == 3


def test_title_is_cut_for_display() -> None:
    """A title of any length is a label of at most 1,000 characters."""
    assert mapped({"title": "x" * 5_000}).title == "x" * 1_000


@pytest.mark.parametrize(
    "rule",
    [
        {"text": 3},
        {"text": []},
        {"text": "{a"},
        {"title": "{}"},
        {"title": "{a[0]}"},
        {"metadata": "a"},
        {"metadata": ["a..b"]},
        {"content_type": "doc"},
        {"content_type": {"fild": "a"}},
        {"max_bytes": 0},
        {"unknown": 1},
    ],
)
def test_wrong_rules_are_refused(rule: dict[str, Any]) -> None:
    """A rule of a wrong shape is refused with the key that is wrong."""
    with pytest.raises(ValidationError) as caught:
        MappingRule(**rule)
    assert caught.value.errors()[0]["loc"][0] == next(iter(rule))
