"""Requests to Qdrant Edge, made apart from sending them, and its answers read back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import qdrant_edge as edge

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

SCHEMAS: Mapping[FieldType, edge.PayloadSchemaType] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
}


def to_config(dimension: int) -> edge.EdgeConfig:
    """The shard's configuration: what `create` asks for and the engine's defaults otherwise."""
    dense = edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)
    sparse = edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)
    return edge.EdgeConfig(vectors={"dense": dense}, sparse_vectors={"bm25": sparse})


def to_point(point: Point) -> edge.Point:
    """The engine's point. Raises `Rejected` if the payload is no JSON (NaN, lone surrogates)."""
    vectors: dict[str, Any] = {}
    if point.dense is not None:
        vectors["dense"] = point.dense.tolist()
    if point.sparse is not None:
        vectors["bm25"] = to_sparse(point.sparse)
    try:
        return edge.Point(point.id, vectors, dict(point.payload))
    except (TypeError, ValueError) as error:
        raise Rejected("store", f"point {point.id} is not JSON: {error}") from error


def to_sparse(sparse: Sparse) -> edge.SparseVector:
    return edge.SparseVector(list(sparse.indices), list(sparse.values))


def to_upsert(write: Conditional) -> edge.UpdateOperation:
    """The write of one group under its condition."""
    mode = edge.UpdateMode.Upsert if write.insert else edge.UpdateMode.UpdateOnly
    points = [to_point(point) for point in write.points]
    return edge.UpdateOperation.upsert_points(points, to_filter(write.only_if), mode)


def to_filter(condition: Condition) -> edge.Filter:
    """The filter that means `condition`."""
    match condition:
        case All(conditions=parts):
            return edge.Filter(must=[to_filter(part) for part in parts])
        case Either(conditions=parts):
            return edge.Filter(should=[to_filter(part) for part in parts] or [has_id(())])
        case Not(condition=part):
            return edge.Filter(must_not=[to_filter(part)])
        case Match(path=path, values=values):
            key = json_path(path)
            fields = [edge.FieldCondition(key, match=match) for match in to_matches(values)]
            return edge.Filter(should=[*fields] or [has_id(())])
        case Range(gte=gte, gt=gt, lte=lte, lt=lt):
            bounds = edge.RangeFloat(gte=gte, gt=gt, lte=lte, lt=lt)
            return edge.Filter(must=[edge.FieldCondition(json_path(condition.path), range=bounds)])
        case DatetimeRange(gte=gte, gt=gt, lte=lte, lt=lt):
            dates = edge.RangeDateTime(
                gte=_rfc3339(gte), gt=_rfc3339(gt), lte=_rfc3339(lte), lt=_rfc3339(lt)
            )
            return edge.Filter(must=[edge.FieldCondition(json_path(condition.path), range=dates)])


def to_matches(values: Sequence[str | int | bool]) -> list[edge.MatchAny | edge.MatchValue]:
    """One match a type, since the engine's any-of is of one type and knows no booleans."""
    values = [value for value in values if can_match(value)]
    keywords = [value for value in values if isinstance(value, str)]
    integers = [v for v in values if type(v) is int]
    matches: list[edge.MatchAny | edge.MatchValue] = []
    if keywords:
        matches.append(edge.MatchAny(any=keywords))
    if integers:
        matches.append(edge.MatchAny(any=integers))
    # The binding takes a Python bool for the integer 1 or 0, and NumPy's for a bool.
    booleans = [np.bool_(value) for value in values if isinstance(value, bool)]
    return matches + [edge.MatchValue(b) for b in booleans]  # type: ignore[arg-type]


def to_query(
    *, dense: Dense | None, sparse: Sparse | None, condition: Condition | None, limit: int
) -> edge.QueryRequest | None:
    """The request for the nearest points, or None where nothing can be found."""
    only = None if condition is None else to_filter(condition)
    ways: list[edge.Query] = []
    if dense is not None:
        ways.append(edge.Query.Nearest(dense.tolist(), using="dense"))
    if sparse is not None and len(sparse.indices):
        ways.append(edge.Query.Nearest(to_sparse(sparse), using="bm25"))
    if not ways:
        return None
    if dense is None or sparse is None:
        return edge.QueryRequest(limit=limit, query=ways[0], filter=only, with_payload=True)
    depth = prefetch_limit(limit)
    return edge.QueryRequest(
        limit=limit,
        # The engine's stubs do not make `Rrf` a `Fusion`; at run time it is one.
        query=edge.Fusion.Rrf(RRF_K),  # type: ignore[arg-type]
        prefetches=[edge.Prefetch(limit=depth, query=way, filter=only) for way in ways],
        with_payload=True,
    )


def from_record(record: edge.Record | edge.ScoredPoint) -> Stored:
    """A point as read back from the engine."""
    vectors: Any = record.vector or {}
    dense = vectors.get("dense")
    return Stored(
        id=str(record.id),
        payload=record.payload or {},
        dense=None if dense is None else np.asarray(dense, dtype=np.float32),
        score=record.score if isinstance(record, edge.ScoredPoint) else 0.0,
    )


def has_id(ids: Sequence[str]) -> edge.Filter:
    return among(ids, None)


def among(ids: Sequence[str], only_if: Condition | None) -> edge.Filter:
    """Those of these points for which the condition holds."""
    named = edge.HasIdCondition(set(ids))
    return edge.Filter(must=[named] if only_if is None else [named, to_filter(only_if)])


def to_selector(payload: bool | Sequence[str]) -> bool | list[str]:
    if isinstance(payload, bool):
        return payload
    return [json_path((name,)) for name in payload]


def to_vectors(dense: bool) -> bool | list[str]:
    return ["dense"] if dense else False


def _rfc3339(date: datetime | None) -> str | None:
    return None if date is None else date.isoformat()
