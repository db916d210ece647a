"""A store in this process's memory: the reference for the contract suite, the fake for tests.

It forgets everything when it goes, and does by definition what the others do by translation:
conditions mean what `models.conditions.holds` says. A test can make it fail: `refuse(n)` turns
away the next n calls, and `before_write`, called with the operation's name before each write is
applied, may raise, which is a crash between two writes.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from connectors.paths import json_path
from connectors.store import (
    RRF_K,
    Conditional,
    Dense,
    FieldType,
    Point,
    Sparse,
    Stored,
    prefetch_limit,
)
from models.conditions import All, Condition, Either, Not, Path, holds
from syncline.errors import Misconfigured, Rejected, Unavailable

_ALWAYS = All(conditions=())


class MemoryStore:
    """The `Store` in a dictionary. Thread-safe by one lock."""

    def __init__(self) -> None:
        self.before_write: Callable[[str], None] | None = None
        self._lock = threading.RLock()
        self._points: dict[str, Point] = {}
        self._indexes: dict[tuple[str, ...], FieldType] = {}
        self._dimension: int | None = None
        self._refusals = 0

    def refuse(self, calls: int) -> None:
        """Answer the next `calls` calls with `Unavailable`, applying nothing."""
        self._refusals = calls

    def create(self, dimension: int) -> bool:
        with self._lock:
            self._answer()
            found = self._dimension
            if found is None:
                self._announce("create")
                self._dimension = dimension
            elif found != dimension:
                raise Misconfigured(
                    f"the index holds vectors of {found} dimensions, the embedding model makes"
                    f" {dimension}",
                    "set the model it was built with",
                    code="recipe_changed",
                )
            return found is None

    def exists(self) -> bool:
        with self._lock:
            self._answer()
            return self._dimension is not None

    def create_field_index(self, path: tuple[str, ...], field_type: FieldType) -> None:
        json_path(path)
        with self._writing("create_field_index"):
            self._indexes[path] = field_type

    def field_indexes(self) -> Mapping[tuple[str, ...], FieldType]:
        with self._reading():
            return dict(self._indexes)

    def upsert(self, points: Sequence[Point]) -> None:
        with self._writing("upsert"):
            self._points |= {point.id: self._checked(point) for point in points}

    def upsert_conditionally(self, writes: Sequence[Conditional]) -> None:
        for write in writes:
            _check(write.only_if)
            with self._writing("upsert_conditionally"):
                for point in map(self._checked, write.points):
                    stored = self._points.get(point.id)
                    if write.insert if stored is None else holds(write.only_if, stored.payload):
                        self._points[point.id] = point

    def set_payload(
        self,
        ids: Sequence[str],
        payload: Mapping[str, Any],
        *,
        only_if: Condition | None = None,
        at: Path = (),
    ) -> None:
        _check(only_if or _ALWAYS)
        with self._writing("set_payload"):
            for point in self._present(ids, only_if):
                changed = _merged(point.payload, at, _json(point.id, payload))
                self._points[point.id] = point._replace(payload=changed)

    def delete(self, ids: Sequence[str], *, only_if: Condition | None = None) -> None:
        _check(only_if or _ALWAYS)
        with self._writing("delete"):
            for point in self._present(ids, only_if):
                del self._points[point.id]

    def delete_where(self, condition: Condition) -> None:
        _check(condition)
        with self._writing("delete_where"):
            for point in self._matching(condition):
                del self._points[point.id]

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | Sequence[str] = True, dense: bool = False
    ) -> list[Stored]:
        with self._reading():
            return [_stored(point, payload, dense) for point in self._present(ids)]

    def scroll(
        self,
        condition: Condition,
        *,
        limit: int,
        after: str | None = None,
        payload: bool | Sequence[str] = True,
        dense: bool = False,
    ) -> tuple[list[Stored], str | None]:
        _check(condition)
        with self._reading():
            found = [p for p in self._matching(condition) if after is None or p.id >= after]
        page = [_stored(point, payload, dense) for point in found[:limit]]
        return page, found[limit].id if len(found) > limit else None

    def count(self, condition: Condition) -> int:
        _check(condition)
        with self._reading():
            return len(self._matching(condition))

    def query(
        self,
        *,
        dense: Dense | None,
        sparse: Sparse | None,
        condition: Condition | None,
        limit: int,
    ) -> list[Stored]:
        _check(condition or _ALWAYS)
        with self._reading():
            points = self._matching(condition or _ALWAYS)
            rankings = []
            if dense is not None:
                rankings.append(self._nearest(dense, points))
            if sparse is not None:
                rankings.append(self._bm25(sparse, points))
        depth = prefetch_limit(limit)
        scores = rankings[0] if len(rankings) == 1 else _fused([r[:depth] for r in rankings])
        return [_stored(self._points[id], True, False, score) for id, score in scores[:limit]]

    def flush(self) -> None:
        with self._reading():
            pass

    def close(self) -> None:
        pass

    def _nearest(self, dense: Dense, points: Sequence[Point]) -> list[tuple[str, float]]:
        self._check_dimension(len(dense))
        return _best({p.id: float(_unit(dense) @ p.dense) for p in points if p.dense is not None})

    def _bm25(self, sparse: Sparse, points: Sequence[Point]) -> list[tuple[str, float]]:
        """Weights times inverse document frequency, as Qdrant's modifier `idf` counts it."""
        weighted = [point.sparse for point in self._points.values() if point.sparse is not None]
        seen = Counter(index for vector in weighted for index in vector.indices)
        idf = {
            index: weight * np.log1p((len(weighted) - seen[index] + 0.5) / (seen[index] + 0.5))
            for index, weight in _pairs(sparse)
        }
        return _best(
            {
                point.id: float(
                    sum(idf.get(i, 0.0) * v for i, v in zip(*point.sparse, strict=True))
                )
                for point in points
                if point.sparse is not None and not idf.keys().isdisjoint(point.sparse.indices)
            }
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            self._answer()
            if self._dimension is None:
                raise Misconfigured(
                    "there is no index", "fill it first: `syncline sync`", code="index_missing"
                )
            yield

    @contextmanager
    def _writing(self, operation: str) -> Iterator[None]:
        with self._reading():
            self._announce(operation)
            yield

    def _answer(self) -> None:
        if self._refusals > 0:
            self._refusals -= 1
            raise Unavailable("memory store", "told to refuse")

    def _announce(self, operation: str) -> None:
        if self.before_write is not None:
            self.before_write(operation)

    def _checked(self, point: Point) -> Point:
        dense = point.dense
        if dense is not None:
            self._check_dimension(len(dense))
            dense = _unit(dense)
        return point._replace(payload=_json(point.id, point.payload), dense=dense)

    def _check_dimension(self, dimension: int) -> None:
        if dimension != self._dimension:
            raise Misconfigured(
                f"a vector of {dimension} dimensions does not fit the index of {self._dimension}",
                "set the model it was built with",
                code="recipe_changed",
            )

    def _present(self, ids: Sequence[str], only_if: Condition | None = None) -> list[Point]:
        found = [self._points[id] for id in dict.fromkeys(ids) if id in self._points]
        return [p for p in found if only_if is None or holds(only_if, p.payload)]

    def _matching(self, condition: Condition) -> list[Point]:
        """By id, which for UUIDs in lower case is the order of Qdrant too."""
        found = [point for point in self._points.values() if holds(condition, point.payload)]
        return sorted(found, key=lambda point: point.id)


def _check(condition: Condition) -> None:
    """Refuse what Qdrant has no notation for. Raises `Misconfigured`."""
    match condition:
        case All(conditions=parts) | Either(conditions=parts):
            for part in parts:
                _check(part)
        case Not(condition=part):
            _check(part)
        case _:
            json_path(condition.path)


def _json(id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy as JSON. Raises `Rejected` where it is none (NaN, lone surrogates)."""
    try:
        text = json.dumps(dict(payload), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise Rejected("store", f"point {id} is not JSON: {error}") from error
    copied: dict[str, Any] = json.loads(text)
    return copied


def _merged(payload: Mapping[str, Any], at: Path, change: Mapping[str, Any]) -> dict[str, Any]:
    """As Qdrant does: here, and only here, a null removes its key."""
    if at:
        inner = payload.get(at[0])
        inner = inner if isinstance(inner, Mapping) else {}
        return {**payload, at[0]: _merged(inner, at[1:], change)}
    merged = {**payload, **change}
    return {name: v for name, v in merged.items() if name not in change or v is not None}


def _stored(point: Point, payload: bool | Sequence[str], dense: bool, score: float = 0.0) -> Stored:
    whole = json.loads(json.dumps(point.payload))
    wanted = payload if not isinstance(payload, bool) else whole if payload else ()
    kept = {name: whole[name] for name in wanted if name in whole}
    return Stored(point.id, kept, point.dense if dense else None, score)


def _unit(dense: Dense) -> Dense:
    return dense / np.float32(np.linalg.norm(dense) or 1.0)


def _pairs(sparse: Sparse) -> Iterator[tuple[int, float]]:
    return zip(sparse.indices, sparse.values, strict=True)


def _best(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda scored: -scored[1])


def _fused(rankings: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Reciprocal rank fusion: Cormack, Clarke and Büttcher 2009, ranks from 0 as in Qdrant."""
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (id, _) in enumerate(ranking):
            scores[id] += 1 / (RRF_K + rank)
    return _best(scores)
