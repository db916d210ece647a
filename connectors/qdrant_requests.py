"""Requests to a Qdrant server, made apart from sending them, and its answers read back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from qdrant_client import models as qdrant

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
from models.conditions import All, Condition, DatetimeRange, Either, Match, Not, Range, can_match
from syncline.errors import Rejected

SCHEMAS: Mapping[FieldType, qdrant.PayloadSchemaType] = {
    "keyword": qdrant.PayloadSchemaType.KEYWORD,
    "integer": qdrant.PayloadSchemaType.INTEGER,
    "float": qdrant.PayloadSchemaType.FLOAT,
    "bool": qdrant.PayloadSchemaType.BOOL,
    "datetime": qdrant.PayloadSchemaType.DATETIME,
}

# A server refuses a request above 32 MB (its setting max_request_size_mb). A quarter of that
# leaves room for what `_weight` does not count, and answers well within a usual timeout.
MAX_BATCH_BYTES = 8 * 2**20
MAX_BATCH_POINTS = 500
MAX_BATCH_IDS = 1000


def to_collection(dimension: int) -> dict[str, Any]:
    """The arguments of `create_collection` after its name; the server's defaults otherwise."""
    return {
        "vectors_config": {
            "dense": qdrant.VectorParams(size=dimension, distance=qdrant.Distance.COSINE)
        },
        "sparse_vectors_config": {"bm25": qdrant.SparseVectorParams(modifier=qdrant.Modifier.IDF)},
        # Payload is read with every hit and every entry: from memory.
        "on_disk_payload": False,
        # If set, fresh points are hidden until they are indexed: no read-your-writes.
        "optimizers_config": qdrant.OptimizersConfigDiff(prevent_unoptimized=False),
        # Hosted clusters refuse filters on unindexed fields by default: the guards of entries
        # compare versions, which need no index, since the point is already found by its id.
        "strict_mode_config": qdrant.StrictModeConfig(enabled=False),
    }


def to_point(point: Point) -> qdrant.PointStruct:
    vectors: dict[str, Any] = {}
    if point.dense is not None:
        vectors["dense"] = point.dense.tolist()
    if point.sparse is not None:
        vectors["bm25"] = to_sparse(point.sparse)
    return qdrant.PointStruct(id=point.id, vector=vectors, payload=dict(point.payload))


def to_sparse(sparse: Sparse) -> qdrant.SparseVector:
    return qdrant.SparseVector(indices=list(sparse.indices), values=list(sparse.values))


def to_upserts(writes: Sequence[Conditional]) -> Iterator[list[qdrant.UpdateOperation]]:
    """The writes in order, as requests of bounded size."""
    flat = [(point, write) for write in writes for point in write.points]
    for batch in batches([point for point, _ in flat]):
        taken, flat = flat[: len(batch)], flat[len(batch) :]
        operations: list[qdrant.UpdateOperation] = []
        for _, group in groupby(taken, key=lambda placed: id(placed[1])):
            placed = [*group]
            points = [point for point, _ in placed]
            operations.append(_upsert(placed[0][1]._replace(points=points)))
        yield operations


def batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """`points` in order, in lists that one request can carry.

    Raises `Rejected` if a payload is no JSON (NaN, lone surrogates).
    """
    batch: list[Point] = []
    size = 0
    for point in points:
        weight = _weight(point)
        if batch and (size + weight > MAX_BATCH_BYTES or len(batch) == MAX_BATCH_POINTS):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += weight
    if batch:
        yield batch


def to_filter(condition: Condition) -> qdrant.Filter:
    """The filter that means `condition`."""
    match condition:
        case All(conditions=parts):
            return qdrant.Filter(must=[to_filter(part) for part in parts])
        case Either(conditions=parts):
            return qdrant.Filter(should=[to_filter(part) for part in parts] or [has_id(())])
        case Not(condition=part):
            return qdrant.Filter(must_not=[to_filter(part)])
        case Match(path=path, values=values):
            key = json_path(path)
            fields = [qdrant.FieldCondition(key=key, match=match) for match in to_matches(values)]
            return qdrant.Filter(should=[*fields] or [has_id(())])
        case Range(gte=gte, gt=gt, lte=lte, lt=lt):
            return _within(condition, qdrant.Range(gte=gte, gt=gt, lte=lte, lt=lt))
        case DatetimeRange(gte=gte, gt=gt, lte=lte, lt=lt):
            return _within(condition, qdrant.DatetimeRange(gte=gte, gt=gt, lte=lte, lt=lt))


def to_matches(values: Sequence[str | int | bool]) -> list[qdrant.MatchAny | qdrant.MatchValue]:
    """One match a type, since Qdrant's any-of is of one type and knows no booleans."""
    values = [value for value in values if can_match(value)]
    keywords = [value for value in values if isinstance(value, str)]
    integers = [value for value in values if type(value) is int]
    matches: list[qdrant.MatchAny | qdrant.MatchValue] = []
    if keywords:
        matches.append(qdrant.MatchAny(any=keywords))
    if integers:
        matches.append(qdrant.MatchAny(any=integers))
    return matches + [qdrant.MatchValue(value=v) for v in values if isinstance(v, bool)]


def to_query(
    *, dense: Dense | None, sparse: Sparse | None, condition: Condition | None, limit: int
) -> dict[str, Any] | None:
    """The arguments of `query_points` after the collection, or None if nothing can be found."""
    only = None if condition is None else to_filter(condition)
    ways: list[tuple[Any, str]] = []
    if dense is not None:
        ways.append((dense.tolist(), "dense"))
    if sparse is not None and len(sparse.indices):
        ways.append((to_sparse(sparse), "bm25"))
    if not ways:
        return None
    if dense is None or sparse is None:
        [(query, using)] = ways
        return {"query": query, "using": using, "query_filter": only, "limit": limit}
    depth = prefetch_limit(limit)
    prefetches = [
        qdrant.Prefetch(query=query, using=using, filter=only, limit=depth) for query, using in ways
    ]
    fusion = qdrant.RrfQuery(rrf=qdrant.Rrf(k=RRF_K))
    return {"query": fusion, "prefetch": prefetches, "limit": limit}


def from_record(record: qdrant.Record | qdrant.ScoredPoint) -> Stored:
    """A point as read back from the server."""
    dense = record.vector.get("dense") if isinstance(record.vector, dict) else None
    return Stored(
        id=str(record.id),
        payload=record.payload or {},
        dense=None if dense is None else np.asarray(dense, dtype=np.float32),
        score=record.score if isinstance(record, qdrant.ScoredPoint) else 0.0,
    )


def has_id(ids: Sequence[str]) -> qdrant.HasIdCondition:
    return qdrant.HasIdCondition(has_id=list(ids))


def among(ids: Sequence[str], only_if: Condition | None) -> qdrant.Filter:
    """Those of these points for which the condition holds."""
    named = has_id(ids)
    return qdrant.Filter(must=[named] if only_if is None else [named, to_filter(only_if)])


def to_selector(payload: bool | Sequence[str]) -> bool | list[str]:
    return payload if isinstance(payload, bool) else [json_path((name,)) for name in payload]


def _upsert(write: Conditional) -> qdrant.UpsertOperation:
    mode = None if write.insert else qdrant.UpdateMode.UPDATE_ONLY
    points = [to_point(point) for point in write.points]
    batch = qdrant.PointsList(
        points=points, update_filter=to_filter(write.only_if), update_mode=mode
    )
    return qdrant.UpsertOperation(upsert=batch)


def _within(
    condition: Range | DatetimeRange, bounds: qdrant.Range | qdrant.DatetimeRange
) -> qdrant.Filter:
    field = qdrant.FieldCondition(key=json_path(condition.path), range=bounds)
    return qdrant.Filter(must=[field])


def _weight(point: Point) -> int:
    """About how many bytes of JSON `point` takes; a float32 has up to 22 characters."""
    try:
        payload = json.dumps(dict(point.payload), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise Rejected("store", f"point {point.id} is not JSON: {error}") from error
    dense = 0 if point.dense is None else 22 * len(point.dense)
    sparse = 0 if point.sparse is None else 34 * len(point.sparse.indices)
    return len(payload) + dense + sparse + 100
