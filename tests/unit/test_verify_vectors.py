"""Vectors that no search can use are told from those that one can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from connectors.memory import MemoryStore
from connectors.store import Stored
from flows.verify_vectors import BATCH_VECTORS, without_vector

VECTORS: dict[str, Any] = {
    "sound": [0.6, 0.8, 0],
    "absent": None,
    "null": [0, 0, 0],
    "short": [0.6, 0.8],
    "not a number": [np.nan, 0, 1],
    "infinite": [0, np.inf, 0],
}


class Damaged(MemoryStore):
    """Holds what no store accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def retrieve(self, ids: Sequence[str], **options: Any) -> list[Stored]:
        assert options == {"payload": False, "dense": True}
        self.asked.append(len(ids))
        vectors = {
            name: v if v is None else np.asarray(v, np.float32) for name, v in VECTORS.items()
        }
        return [Stored(name, {}, vectors[name]) for name in ids if name in vectors]


def test_only_a_finite_vector_of_the_dimension_counts() -> None:
    """All but the sound one are named; points that do not exist are not."""
    found = without_vector(Damaged(), [*VECTORS, "unknown"], 3)
    assert set(found) == VECTORS.keys() - {"sound"}


def test_vectors_are_read_in_bounded_batches() -> None:
    """However many chunks there are, memory holds the vectors of one batch."""
    store = Damaged()
    assert list(without_vector(store, ["unknown"] * (BATCH_VECTORS + 1), 3)) == []
    assert store.asked == [BATCH_VECTORS, 1]
