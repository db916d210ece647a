"""Conditions on payload fields, neutral between the stores, and their meaning.

A condition is a small tree of frozen records. Each store translates it into its own filter;
`holds` is the reference meaning, used by the in-memory store and by inclusion filters.
Field paths are tuples of names, so that a name may contain a dot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from models.records import Record

Path = tuple[str, ...]


class Match(Record):
    """The field, or one item of it if it is a list, equals one of `values`, in type as well.

    5.0 is not 5, and an integer beyond 64 bits signed equals nothing: the engine compares
    integers of that size, and no floats.
    """

    path: Path
    values: tuple[str | int | bool, ...]


class Range(Record):
    """The field, or one item of it, lies within the bounds, compared as 64-bit floats."""

    path: Path
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


class DatetimeRange(Record):
    """As `Range`, for RFC 3339 dates."""

    path: Path
    gte: datetime | None = None
    gt: datetime | None = None
    lte: datetime | None = None
    lt: datetime | None = None


class All(Record):
    """Every one of `conditions` holds (none: always true)."""

    conditions: tuple[Condition, ...]


class Either(Record):
    """At least one of `conditions` holds (none: never true)."""

    conditions: tuple[Condition, ...]


class Not(Record):
    """`condition` does not hold."""

    condition: Condition


Condition = Match | Range | DatetimeRange | All | Either | Not


def holds(condition: Condition, payload: Mapping[str, Any]) -> bool:
    """Whether `condition` holds for `payload`: what every store must agree with."""
    match condition:
        case All(conditions=parts):
            return all(holds(part, payload) for part in parts)
        case Either(conditions=parts):
            return any(holds(part, payload) for part in parts)
        case Not(condition=part):
            return not holds(part, payload)
        case Match(path=path, values=values):
            return any(
                _same(item, value)
                for item in _items(payload, path)
                for value in values
                if can_match(value)
            )
        case Range():
            numbers = [i for i in _items(payload, condition.path) if _is_number(i)]
            return any(_within(float(number), condition) for number in numbers)
        case DatetimeRange():
            dates = [_as_date(item) for item in _items(payload, condition.path)]
            return any(_within(date, condition) for date in dates if date is not None)


def parse_date(text: str) -> datetime | None:
    """An RFC 3339 date or date-time, or None. Without a zone it is UTC."""

    if len(text) < 10 or text[4] != "-" or text[7] != "-":
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _items(payload: Mapping[str, Any], path: Path) -> Sequence[Any]:
    value: Any = payload
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _same(item: Any, value: str | int | bool) -> bool:
    return type(item) is type(value) and bool(item == value)


def can_match(value: str | int | bool) -> bool:
    """Whether a stored value can equal `value`: integers of 64 bits signed, valid Unicode."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return -(2**63) <= value < 2**63


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, float)) and not isinstance(item, bool)


def _as_date(item: Any) -> datetime | None:
    return parse_date(item) if isinstance(item, str) else None


def _within(value: Any, bounds: Range | DatetimeRange) -> bool:
    return (
        (bounds.gte is None or value >= bounds.gte)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.lte is None or value <= bounds.lte)
        and (bounds.lt is None or value < bounds.lt)
    )
