"""Every store's filter means what `models.conditions.holds` says."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.store import FieldType, Point, Store
from models.conditions import (
    All,
    Condition,
    DatetimeRange,
    Either,
    Match,
    Not,
    Range,
    holds,
)

UTC = UTC
NOON = datetime(2024, 2, 29, 12, 0, 0, 250_000, UTC)

FLOATS: list[dict[str, Any]] = [{"f": 1.5}, {"f": 2.0}]

PAYLOADS: list[dict[str, Any]] = [
    {},
    {"f": None},
    {"f": []},
    {"f": "a"},
    {"f": ["a", "b"]},
    {"f": [["a"]]},
    {"f": {"a": 1}},
    {"f": {"g": "a"}},
    {"f": {"g": ["x", "a"]}},
    {"f": [{"g": "a"}, {"g": "b"}]},
    {"f.g": "a"},
    {"f": True},
    {"f": False},
    {"f": 1},
    *FLOATS,
    {"f": 0},
    {"f": -1},
    {"f": "1"},
    {"f": "true"},
    {"f": [True, 2]},
    {"f": 2**63 - 1},
    {"f": -(2**63)},
    {"f": 2**31 + 1},
    {"f": "A"},
    {"f": "a "},
    {"f": "日本"},
    {"f": "2024-02-29T12:00:00.25Z"},
    {"f": "2024-02-29T13:00:00.25+01:00"},
    {"f": "2024-02-29"},
    {"f": ["1999-01-01T00:00:00Z", "2024-03-01T00:00:00Z"]},
    {"f": "2024-13-01T00:00:00Z"},
]

F = ("f",)
G = ("f", "g")
CONDITIONS: list[Condition] = [
    All(conditions=()),
    Either(conditions=()),
    Not(condition=All(conditions=())),
    Not(condition=Either(conditions=())),
    All(conditions=(Either(conditions=()), All(conditions=()))),
    Either(conditions=(Either(conditions=()), All(conditions=()))),
    Match(path=F, values=()),
    Not(condition=Match(path=F, values=())),
    Match(path=F, values=("a",)),
    Match(path=F, values=("a", "日本", "\ud800")),
    Match(path=F, values=("1",)),
    Match(path=F, values=(1,)),
    Match(path=F, values=(0, 2)),
    Match(path=F, values=(True,)),
    Match(path=F, values=(False,)),
    Match(path=F, values=(True, False)),
    Match(path=F, values=("a", -1, True)),
    Match(path=F, values=(2**53 + 1,)),
    Match(path=F, values=(2**63 - 1, -(2**63))),
    Match(path=F, values=(2**63,)),
    Match(path=F, values=(2**200, 1)),
    Not(condition=Match(path=F, values=("a",))),
    Match(path=G, values=("a",)),
    Match(path=("f.g",), values=("a",)),
    Match(path=("absent", "g"), values=("a",)),
    Range(path=F, gte=1, lt=2),
    Range(path=F, gt=1, lte=2),
    Range(path=F, gt=2**31),
    Range(path=F, lt=0),
    Not(condition=Range(path=F, gte=0)),
    DatetimeRange(path=F, gte=NOON, lte=NOON),
    DatetimeRange(path=F, gt=NOON),
    DatetimeRange(path=F, lt=NOON),
    DatetimeRange(path=F, lt=NOON.astimezone(timezone(timedelta(hours=-7)))),
    DatetimeRange(
        path=F, gte=datetime(2024, 2, 29, tzinfo=UTC), lt=datetime(2024, 3, 1, tzinfo=UTC)
    ),
    All(conditions=(Match(path=F, values=("a",)), Match(path=F, values=("b",)))),
    Either(conditions=(Match(path=F, values=(1,)), Range(path=F, gt=2**60))),
    Not(
        condition=Either(
            conditions=(Match(path=F, values=(1,)), Not(condition=Match(path=F, values=("a",))))
        )
    ),
]


def point_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def matching(store: Store, condition: Condition) -> set[int]:
    page, _ = store.scroll(condition, limit=1000, payload=False)
    found = {uuid.UUID(point.id).int for point in page}
    assert store.count(condition) == len(found)
    return found


BEYOND_FLOATS = [{"f": 2**53}, {"f": 2**53 + 1}, {"f": 2**53 + 2}]


def disagreements(
    store: Store, payloads: Sequence[dict[str, Any]], conditions: Sequence[Condition]
) -> list[tuple[Condition, dict[str, Any]]]:
    """Every condition and payload for which the store says other than `holds`."""
    store.upsert([Point(point_id(n), payload) for n, payload in enumerate(payloads)])
    return [
        (condition, payloads[n])
        for condition in conditions
        for n in matching(store, condition)
        ^ {n for n, payload in enumerate(payloads) if holds(condition, payload)}
    ]


def test_each_condition_selects_what_holds_selects(store: Store) -> None:
    """Without an index, types, lists, nesting, absence and negation mean the same."""
    assert disagreements(store, PAYLOADS, CONDITIONS) == []


@pytest.mark.beyond_local_mode("it ignores payload indexes")
@pytest.mark.parametrize("indexed", ["keyword", "integer", "float", "bool", "datetime"])
def test_an_index_changes_no_meaning(store: Store, indexed: FieldType) -> None:
    """Nor with one, as far as `create_field_index` promises: see there for its limits."""
    store.create_field_index(F, indexed)
    store.create_field_index(G, "keyword")
    foreign = {"integer": DatetimeRange, "float": DatetimeRange, "datetime": Range}.get(indexed)
    conditions = [c for c in CONDITIONS if foreign is None or foreign.__name__ not in repr(c)]
    payloads = [p for p in PAYLOADS if indexed != "integer" or p not in FLOATS]
    assert disagreements(store, payloads, conditions) == []


@pytest.mark.beyond_local_mode("it compares integers with floats exactly")
def test_ranges_compare_as_floats(store: Store) -> None:
    """Integers that are one as 64-bit floats are one to a range, and differ to a match."""
    conditions: list[Condition] = [
        Range(path=F, gt=2.0**53),
        Range(path=F, gte=2.0**53, lte=2.0**53),
        Match(path=F, values=(2**53 + 1,)),
    ]
    assert disagreements(store, BEYOND_FLOATS, conditions) == []


NAMES = st.sampled_from(["f", "a.b", "日本 x", "[0]"])
PATHS = st.lists(NAMES, min_size=1, max_size=2).map(tuple)
INTEGERS = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
WORDS = st.sampled_from(["a", "b", "", "1", "é\u0000"])
DATES = st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)).map(
    lambda date: date.replace(microsecond=date.microsecond // 1000 * 1000)
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    DATES.map(lambda date: date.isoformat().replace("+00:00", "Z")),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(NAMES, SCALARS, max_size=2)
)
BOUNDS = st.one_of(st.none(), st.floats(-5, 5), st.floats(allow_nan=False, allow_infinity=False))
MAYBE_DATES = st.one_of(st.none(), DATES)
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.builds(
        Match,
        path=PATHS,
        values=st.lists(st.one_of(WORDS, INTEGERS, st.booleans()), max_size=3).map(tuple),
    ),
    st.builds(Range, path=PATHS, gte=BOUNDS, gt=BOUNDS, lte=BOUNDS, lt=BOUNDS),
    st.builds(
        DatetimeRange,
        path=PATHS,
        gte=MAYBE_DATES,
        gt=MAYBE_DATES,
        lte=MAYBE_DATES,
        lt=MAYBE_DATES,
    ),
)
TREES: st.SearchStrategy[Condition] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda c: All(conditions=tuple(c))),
        st.lists(inner, max_size=3).map(lambda c: Either(conditions=tuple(c))),
        inner.map(lambda c: Not(condition=c)),
    ),
    max_leaves=6,
)


@pytest.mark.beyond_local_mode("it compares integers with floats exactly")
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    payloads=st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=5),
    conditions=st.lists(TREES, min_size=1, max_size=5),
)
def test_random_conditions_hold_for_the_same_payloads(
    store: Store, payloads: list[dict[str, Any]], conditions: list[Condition]
) -> None:
    """Random payloads and condition trees: no store disagrees with `holds`."""
    store.delete_where(All(conditions=()))
    assert disagreements(store, payloads, conditions) == []
