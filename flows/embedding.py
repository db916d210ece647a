"""Embedding and storing the chunks of a group of plans: all that costs time when text changes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.index import Index
from models import bm25
from models.embedders import Embedder, Unembeddable
from models.records import ChunkPoint, Key
from syncline.control import Control
from syncline.errors import Rejected, Stopped
from syncline.telemetry import Telemetry
from transforms.plan import NewChunk

SLICE_SECONDS = 0.5
"""Aim for the embedding of one group: long enough for full batches, short enough that documents
become visible while a backlog is worked off, and that a stop is noticed."""
_GROUP_CHUNKS = (32, 16_384)
"""Fewest and most new chunks that are written as one group."""


class Embedding:
    """Embeds what is not stored yet, once a text. One caller at a time."""

    def __init__(
        self, index: Index, embedder: Embedder, control: Control, telemetry: Telemetry
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._control = control
        self._telemetry = telemetry
        self.group_chunks = _GROUP_CHUNKS[0]
        """New chunks that make a group, from how long the ones before took."""

    def store(self, new: Sequence[NewChunk]) -> dict[Key, Rejected]:
        """Embed and store what is not stored yet; returns the documents that the model refuses."""
        if not new:
            return {}
        started = time.perf_counter()
        known = self._index.vectors_of(sorted({chunk.hash for chunk in new}))
        copied = [chunk for chunk in new if chunk.hash in known]
        self._put(copied, [known[chunk.hash] for chunk in copied])
        inputs = {c.hash: c.chunk.input for c in new if c.hash not in known}
        rejected = self._embed_inputs(inputs, new)
        self._pace(time.perf_counter() - started, len(new))
        return rejected

    def _embed_inputs(
        self, inputs: Mapping[str, str], new: Sequence[NewChunk]
    ) -> dict[Key, Rejected]:
        waiting: dict[str, list[NewChunk]] = {}
        for chunk in new:
            waiting.setdefault(chunk.hash, []).append(chunk)
        rejected: dict[Key, Rejected] = {}
        left = list(inputs)
        while left:
            done: set[int] = set()
            try:
                for places, vectors in self._embedder.embed_batches([inputs[h] for h in left]):
                    self._telemetry.embedded(len(places))
                    pairs = [
                        (chunk, vector)
                        for place, vector in zip(places, vectors, strict=True)
                        for chunk in waiting[left[place]]
                    ]
                    self._put([chunk for chunk, _ in pairs], [vector for _, vector in pairs])
                    done.update(places)
                    if len(done) < len(left) and self._control.stop_requested:
                        raise Stopped("a stop was asked for while embedding")
            except Unembeddable as error:
                bad = [left[place] for place in error.indices]
                rejected |= {chunk.key: error for h in bad for chunk in waiting[h]}
                done.update(error.indices)
            left = [h for place, h in enumerate(left) if place not in done]
        return rejected

    def _put(self, chunks: Sequence[NewChunk], vectors: Sequence[Any]) -> None:
        if not chunks:
            return
        self._index.put_chunks(
            [
                ChunkPoint(
                    id=c.id,
                    key=c.key,
                    version=c.version,
                    hash=c.hash,
                    chunk=c.chunk,
                    dense=vector,
                    sparse=bm25.encode_document(c.chunk.input),
                    metadata=c.metadata,
                )
                for c, vector in zip(chunks, vectors, strict=True)
            ]
        )

    def _pace(self, seconds: float, chunks: int) -> None:
        least, most = _GROUP_CHUNKS
        if chunks >= self.group_chunks and seconds < SLICE_SECONDS / 2:
            self.group_chunks = min(most, self.group_chunks * 2)
        elif seconds > SLICE_SECONDS * 2:
            self.group_chunks = max(least, self.group_chunks // 2)
