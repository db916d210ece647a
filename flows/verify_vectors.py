"""Whether chunks have the vectors that a search needs; what they say, only embedding could tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from connectors.store import Dense, Store

BATCH_VECTORS = 500
"""Vectors read at once: 2 MB of 1,024 dimensions."""


def without_vector(store: Store, ids: Sequence[str], dimension: int) -> Iterator[str]:
    """Those of the points `ids` that exist and have no finite dense vector (dimension,) but 0."""
    for start in range(0, len(ids), BATCH_VECTORS):
        wanted = ids[start : start + BATCH_VECTORS]
        for stored in store.retrieve(wanted, payload=False, dense=True):
            if not _is_sound(stored.dense, dimension):
                yield stored.id


def _is_sound(dense: Dense | None, dimension: int) -> bool:
    if dense is None or dense.shape != (dimension,):
        return False
    return bool(np.isfinite(dense).all() and dense.any())
