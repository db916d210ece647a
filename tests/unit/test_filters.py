"""The filter grammar: what each form finds, and what is refused by name."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest

from models.conditions import All, Match, Path, holds
from models.filters import InvalidFilter, dotted, parse_filter

DOCUMENT: dict[str, Any] = {
    "tag": ["a", "b"],
    "stars": 3.0,
    "count": 7,
    "big": 2**60 + 1,
    "open": True,
    "when": "2026-01-31T12:00:00Z",
    "author": {"name": "Ann"},
}


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"tag": "a"},
        {"tag": ["x", "b"]},
        {"stars": 3},
        {"count": 7.0},
        {"count": [1, 7]},
        {"big": 2**60 + 1},
        {"open": True},
        {"when": "2026-01-31T12:00:00Z"},
        {"when": "2026-01-31T13:00:00+01:00"},
        {"when": {"gte": "2026-01-31", "lt": "2026-02-01"}},
        {"when": {"gt": date(2026, 1, 30)}},
        {"count": {"gt": 6, "lte": 7}},
        {"author.name": "Ann"},
        {"tag": "a", "open": True},
    ],
)
def test_finds(raw: dict[str, Any]) -> None:
    """Each form of a filter holds for a document that it describes."""
    assert holds(parse_filter(raw), DOCUMENT)


@pytest.mark.parametrize(
    "raw",
    [
        {"tag": "c"},
        {"tag": []},
        {"stars": 4},
        {"count": True},
        {"open": 1},
        {"big": 2**60},
        {"count": {"lt": 7}},
        {"count": {"gte": "2020-01-01"}},
        {"when": "2026-01-31"},
        {"author": "Ann"},
        {"name": "Ann"},
        {"tag": "a", "open": False},
    ],
)
def test_does_not_find(raw: dict[str, Any]) -> None:
    """A filter does not hold for a document that differs in one thing."""
    assert not holds(parse_filter(raw), DOCUMENT)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "null"),
        ([None], "null"),
        ({"a": {"b": 1}}, "'a'"),
        ([["a"]], "['a']"),
        ({}, "got none"),
        ({"ne": 1}, "'ne'"),
        ({"gte": 1, "lt": "2026-01-01"}, "not both"),
        ({"gte": "soon"}, "'soon'"),
        ({"gte": True}, "True"),
        ({"gte": None}, "null"),
        (math.nan, "finite"),
        ({"lt": math.inf}, "finite"),
        ({"lt": 10**400}, "finite"),
        (2**63, "64 bits"),
        (b"x", "b'x'"),
    ],
)
def test_refuses(value: Any, problem: str) -> None:
    """What the grammar does not allow is refused with the field's name and what was wrong."""
    with pytest.raises(InvalidFilter) as caught:
        parse_filter({"ok": 1, "bad.field": value})
    assert caught.value.field == "bad.field"
    assert problem in caught.value.problem


@pytest.mark.parametrize("name", ["", ".a", "a..b", "a."])
def test_refuses_empty_names(name: str) -> None:
    """A field's name without its parts is refused."""
    with pytest.raises(InvalidFilter):
        parse_filter({name: 1})


def test_caller_places_fields() -> None:
    """The caller decides where a field lies in the payload."""

    def path_of(field: str) -> Path:
        return ("metadata", *dotted(field))

    expected = Match(path=("metadata", "author", "name"), values=("Ann",))
    assert parse_filter({"author.name": "Ann"}, path_of=path_of) == All(conditions=(expected,))
