"""How each type in the signatures of `Store` is written as JSON and raw numbers. Pure.

`values_of` turns a type into a pair of functions. It knows JSON's own types, sequences, mappings,
unions, named tuples, records (written as `[class, {field: value}]`, only those fields that were
set) and the two kinds of vector, and refuses any other type when the module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from connectors.store import Sparse
from models.records import Record

Numbers = list[bytes]
"""The raw numbers written so far."""
_FLOATS, _INDICES = np.dtype("<f4"), np.dtype("<u4")
_SCALARS = (str, int, float, bool)
_ROWS = (Sequence, list, tuple, frozenset)


class Reading:
    """The raw numbers of a frame, taken one vector after the other."""

    def __init__(self, numbers: bytes) -> None:
        self._numbers = numbers
        self._at = 0

    def take(self, dtype: np.dtype[Any], count: int) -> Any:
        """The next `count` numbers: `(count,)`, read-only. Raises ValueError past the end."""
        if count < 0:
            raise ValueError(f"{count} numbers")
        found = (
            np.frombuffer(self._numbers, dtype, count, self._at) if count else np.empty(0, dtype)
        )
        self._at += found.nbytes
        return found


class Values(NamedTuple):
    """How values of one type are written and read."""

    encode: Callable[[Any, Numbers], Any]
    decode: Callable[[Any, Reading], Any]


def _as_it_is(value: Any, _: Any) -> Any:
    return value


_PLAIN = Values(_as_it_is, _as_it_is)


@cache
def values_of(hint: Any) -> Values:
    """The way of writing values of type `hint`. Raises TypeError for a type that has none."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (Any, NoneType, *_SCALARS) or origin is Literal:
        return _PLAIN
    if hint in _SPECIAL:
        return _SPECIAL[hint]
    if origin is np.ndarray:
        return _DENSE
    if isinstance(hint, type) and issubclass(hint, Record):
        return _records((hint,))
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return _named_tuple(hint)
    if origin in (Union, UnionType):
        return _union(inner)
    if origin is Mapping:
        return _mapping(*inner)
    if origin is tuple and inner[1:] != (...,):
        return _row([values_of(each) for each in inner], tuple)
    if origin in _ROWS:
        return _rows(values_of(inner[0]), list if origin is Sequence else origin)
    raise TypeError(f"{hint} has no form on the wire")


def _rows(item: Values, make: Callable[[Any], Any]) -> Values:
    if item is _PLAIN:
        return Values(lambda value, _: list(value), lambda found, _: make(found))
    return Values(
        lambda value, numbers: [item.encode(each, numbers) for each in value],
        lambda found, reading: make([item.decode(each, reading) for each in found]),
    )


def _row(items: Sequence[Values], make: Callable[[Any], Any]) -> Values:
    return Values(
        lambda value, numbers: [
            item.encode(each, numbers) for item, each in zip(items, value, strict=True)
        ],
        lambda found, reading: make(
            [item.decode(each, reading) for item, each in zip(items, found, strict=True)]
        ),
    )


def _named_tuple(kind: Any) -> Values:
    hints = get_type_hints(kind)
    return _row([values_of(hints[name]) for name in kind._fields], kind._make)


def _mapping(key: Any, value: Any) -> Values:
    """An object where keys are strings and values plain, else a list of pairs."""
    pair = [values_of(key), values_of(value)]
    if key is str and pair[1] is _PLAIN:
        return Values(lambda given, _: dict(given), _as_it_is)
    pairs = _rows(_row(pair, tuple), dict)
    return Values(lambda given, numbers: pairs.encode(given.items(), numbers), pairs.decode)


def _union(kinds: Sequence[Any]) -> Values:
    if NoneType in kinds:
        inner = values_of(reduce(or_, (kind for kind in kinds if kind is not NoneType)))
        return Values(
            lambda value, numbers: None if value is None else inner.encode(value, numbers),
            lambda found, reading: None if found is None else inner.decode(found, reading),
        )
    if all(isinstance(kind, type) and issubclass(kind, Record) for kind in kinds):
        return _records(tuple(kinds))
    if all(kind in _SCALARS or kind == Sequence[str] for kind in kinds):
        return Values(
            lambda value, _: value if isinstance(value, _SCALARS) else list(value), _as_it_is
        )
    raise TypeError(f"{kinds} are told apart by nothing on the wire")


def _records(kinds: Sequence[type[Record]]) -> Values:
    by_name = {kind.__name__: kind for kind in kinds}

    def encode(record: Record, numbers: Numbers) -> Any:
        kind = type(record)
        fields = _fields(kind)
        return [
            kind.__name__,
            {
                name: fields[name].encode(getattr(record, name), numbers)
                for name in record.model_fields_set
            },
        ]

    def decode(found: Any, reading: Reading) -> Record:
        name, given = found
        kind = by_name[name]
        fields = _fields(kind)
        return kind(**{name: fields[name].decode(value, reading) for name, value in given.items()})

    return Values(encode, decode)


@cache
def _fields(kind: type[Record]) -> Mapping[str, Values]:
    """Made when first needed: a condition's fields are conditions again, so that pydantic may not
    have resolved them yet either."""
    kind.model_rebuild()
    hints: dict[str, Any] = {name: field.annotation for name, field in kind.model_fields.items()}
    return {name: values_of(hint) for name, hint in hints.items()}


def _encode_dense(value: Any, numbers: Numbers) -> int:
    numbers.append(np.asarray(value, _FLOATS).tobytes())
    return len(value)


def _encode_sparse(value: Sparse, numbers: Numbers) -> int:
    numbers.append(np.asarray(value.indices, _INDICES).tobytes())
    numbers.append(np.asarray(value.values, _FLOATS).tobytes())
    return len(value.indices)


def _decode_sparse(found: int, reading: Reading) -> Sparse:
    indices = reading.take(_INDICES, found).tolist()
    return Sparse(indices, reading.take(_FLOATS, found).tolist())


_DENSE = Values(_encode_dense, lambda found, reading: reading.take(_FLOATS, found))
_SPECIAL: Mapping[Any, Values] = {
    Sparse: Values(_encode_sparse, _decode_sparse),
    datetime: Values(
        lambda value, _: value.isoformat(), lambda found, _: datetime.fromisoformat(found)
    ),
}
