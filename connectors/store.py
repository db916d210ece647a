"""The narrow interface that Syncline needs of a vector store, and nothing more.

Implemented by `qdrant_edge` (the engine in this process), `qdrant` (a server, or the client's
local mode) and `memory` (for unit tests). One contract suite, `tests/contract/test_store.py`,
runs over all of them. Domain meaning (entries, floors, positions) lives above, in `index`.

Errors: `Unavailable` when the store does not answer now, `Misconfigured` when a person must act.
Threads: all calls may come from several threads at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from models.conditions import Condition, Path

Dense = npt.NDArray[np.float32]
FieldType = Literal["keyword", "integer", "float", "bool", "datetime"]

RRF_K = 60
"""Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion ...", SIGIR 2009: their constant."""


def prefetch_limit(limit: int) -> int:
    """How many points of each ranking are fused to find the best `limit` of both.

    A point beyond it in one ranking gets nothing from that one: at 4 times the limit such a
    point can hardly reach the top; 50 keeps short answers from depending on it.
    """
    return max(4 * limit, 50)


class Sparse(NamedTuple):
    """A sparse vector: distinct indices (u32) and their weights, equally many."""

    indices: Sequence[int]
    values: Sequence[float]


class Point(NamedTuple):
    """A point to write. `dense` (dimension,) float32 and `sparse` both absent: vectorless."""

    id: str
    payload: Mapping[str, Any]
    dense: Dense | None = None
    sparse: Sparse | None = None


class Stored(NamedTuple):
    """A point as read back. `dense` only where it was asked for; `score` only from `query`."""

    id: str
    payload: Mapping[str, Any]
    dense: Dense | None = None
    score: float = 0.0


class Conditional(NamedTuple):
    """Points that are written where no point of that id exists or `only_if` holds for it.

    A refusal is silent: read back to know.
    """

    points: Sequence[Point]
    only_if: Condition
    insert: bool = True
    """False: where no point of that id exists, none is made."""


class Store(Protocol):
    """One collection of points in a vector store."""

    def create(self, dimension: int) -> bool:
        """Make sure that the collection exists: cosine `dense`, IDF-weighted sparse `bm25`.

        True if it was made now. Raises `Misconfigured` if one of another dimension exists.
        """

    def exists(self) -> bool:
        """Whether the collection exists. Creates nothing."""

    def create_field_index(self, path: tuple[str, ...], field_type: FieldType) -> None:
        """Index a payload field; twice is once.

        Values of other types stay stored and matched, but not quite alike. A range of another
        kind (of dates on a number field, of numbers on a date field) finds nothing. An integer
        field matches whole floats too, and its ranges find no fractions: a field that may hold
        both is a float field.
        """

    def field_indexes(self) -> Mapping[tuple[str, ...], FieldType]:
        """The payload fields that are indexed."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write whole points, vectors and payload. Returned: stored. Again: no change."""

    def upsert_conditionally(self, writes: Sequence[Conditional]) -> None:
        """Write each group under its condition, in order."""

    def set_payload(
        self,
        ids: Sequence[str],
        payload: Mapping[str, Any],
        *,
        only_if: Condition | None = None,
        at: Path = (),
    ) -> None:
        """Replace these keys of the payload, or of the object that stands `at` a path in it.

        Only of existing points for which `only_if` holds; others are passed over, in silence. A
        null value removes its key.
        """

    def delete(self, ids: Sequence[str], *, only_if: Condition | None = None) -> None:
        """Remove points, only those for which `only_if` holds; unknown ids are passed over."""

    def delete_where(self, condition: Condition) -> None:
        """Remove all points for which `condition` holds."""

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | Sequence[str] = True, dense: bool = False
    ) -> list[Stored]:
        """The points that exist among `ids`, in no order. `payload` may name top-level keys."""

    def scroll(
        self,
        condition: Condition,
        *,
        limit: int,
        after: str | None = None,
        payload: bool | Sequence[str] = True,
        dense: bool = False,
    ) -> tuple[list[Stored], str | None]:
        """A page of the points for which `condition` holds, in the order of their ids.

        Also the `after` of the next page, None on the last. It is a bound, not a point: points
        may come and go between pages, and each that stays is seen exactly once.
        """

    def count(self, condition: Condition) -> int:
        """How many points there are for which `condition` holds, exactly."""

    def query(
        self,
        *,
        dense: Dense | None,
        sparse: Sparse | None,
        condition: Condition | None,
        limit: int,
    ) -> list[Stored]:
        """The nearest points, best first: by cosine, by BM25, or by RRF of both where both are
        given (k = `RRF_K`). Payload whole, no vectors. An empty sparse vector finds nothing."""

    def flush(self) -> None:
        """Make all acknowledged writes survive a power cut."""

    def close(self) -> None:
        """Release the store; afterwards no call is allowed."""
