"""The users' filter grammar, read into conditions.

    {field: value | [values] | {"gte" | "gt" | "lte" | "lt": bound}}

All fields must hold. A value is a string, a number, a boolean or a date; a list means any of its
values; bounds are numbers or RFC 3339 dates. A dot in a field's name leads into nested objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from models.conditions import All, Condition, DatetimeRange, Either, Match, Path, Range, parse_date

_OPERATORS = ("gte", "gt", "lte", "lt")
_EXACT_AS_FLOAT = 2**53


class InvalidFilter(ValueError):
    """A filter that does not follow the grammar; `field` says where, `problem` what is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"filter field {field!r}: {problem}")
        self.field = field
        self.problem = problem


def dotted(field: str) -> Path:
    """The path that a dotted name stands for. Raises `InvalidFilter` where a part is empty."""
    path = tuple(field.split("."))
    if not all(path) or any("\ud800" <= character <= "\udfff" for character in field):
        shown = field.encode("utf-8", "backslashreplace").decode()
        raise InvalidFilter(shown, "is not a field name such as tag or author.name")
    return path


def parse_filter(raw: Mapping[str, Any], *, path_of: Callable[[str], Path] = dotted) -> All:
    """The condition that all fields of `raw` hold; `path_of` places a field in the payload.

    Numbers compare by value, so 3 finds 3.0 and the reverse. A string that reads as a date also
    finds the same instant written otherwise. Raises `InvalidFilter`.
    """
    if not isinstance(raw, Mapping):
        raise InvalidFilter("", f"expected an object of fields, got {_shown(raw)}")
    return All(conditions=tuple(_field(name, value, path_of) for name, value in raw.items()))


def _field(field: str, value: Any, path_of: Callable[[str], Path]) -> Condition:
    if not isinstance(field, str):
        raise InvalidFilter(str(field), "a field's name is a string")
    if isinstance(value, Mapping):
        return _range(field, path_of(field), value)
    if isinstance(value, (list, tuple)):
        return _any_of(field, path_of(field), value)
    return _any_of(field, path_of(field), [value])


def _any_of(field: str, path: Path, values: Sequence[Any]) -> Condition:
    exact: list[str | int | bool] = []
    ranges: list[Condition] = []
    for value in values:
        match value:
            case bool():
                exact.append(value)
            case int() if abs(value) > _EXACT_AS_FLOAT:
                exact.append(_int64(field, value))
            case int() | float():
                number = _number(field, value)
                ranges.append(Range(path=path, gte=number, lte=number))
            case str():
                exact.append(value)
                if (instant := parse_date(value)) is not None:
                    ranges.append(DatetimeRange(path=path, gte=instant, lte=instant))
            case date():
                instant = _instant(value)
                ranges.append(DatetimeRange(path=path, gte=instant, lte=instant))
            case _:
                raise InvalidFilter(
                    field, f"expected a string, number, boolean or date, got {_shown(value)}"
                )
    if exact:
        ranges.insert(0, Match(path=path, values=tuple(exact)))
    return ranges[0] if len(ranges) == 1 else Either(conditions=tuple(ranges))


def _range(field: str, path: Path, raw: Mapping[str, Any]) -> Condition:
    unknown = [operator for operator in raw if operator not in _OPERATORS]
    if unknown or not raw:
        got = f"got {unknown[0]!r}" if unknown else "got none"
        raise InvalidFilter(field, f"expected bounds named {', '.join(_OPERATORS)}; {got}")
    bounds = {operator: _bound(field, value) for operator, value in raw.items()}
    dates = {name: bound for name, bound in bounds.items() if isinstance(bound, datetime)}
    numbers = {name: bound for name, bound in bounds.items() if isinstance(bound, float)}
    if dates and numbers:
        raise InvalidFilter(field, "bounds are all numbers or all dates, not both")
    return DatetimeRange(path=path, **dates) if dates else Range(path=path, **numbers)


def _bound(field: str, value: Any) -> float | datetime:
    if isinstance(value, date):
        return _instant(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(field, value)
    instant = parse_date(value) if isinstance(value, str) else None
    if instant is None:
        raise InvalidFilter(
            field, f"a bound is a number or a date such as 2026-01-31, got {_shown(value)}"
        )
    return instant


def _number(field: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidFilter(field, f"{_shown(value)} is not a finite number")
    return number


def _int64(field: str, value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidFilter(field, f"{_shown(value)} does not fit 64 bits")
    return value


def _instant(value: date) -> datetime:
    """TOML has dates and times of its own; without a zone they are UTC."""
    moment = value if isinstance(value, datetime) else datetime.combine(value, time())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
