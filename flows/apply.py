"""The apply step: read, plan, embed and write, for a batch of documents at once.

It is one step, so that no second plan is made between a plan and its write. Everything it does is
a difference against what is stored, so doing it again after a crash costs reads and nothing else.

Delivery: when `apply` returns, every change of the batch is in the index or was overtaken by a
newer one. It raises `Stopped` when a stop is asked for in the middle; chunks embedded by then are
kept, so the restart does not embed them again. While the index is away it waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from connectors.index import Index
from models import bm25
from models.embedders import Embedder, Unembeddable
from models.records import ChunkPoint, Failed, Failure, Floor, Item, Key, Removal, Revision
from syncline.control import Control
from syncline.errors import Rejected, Stopped
from syncline.retry import keep_trying
from syncline.telemetry import Telemetry
from transforms.plan import (
    NewChunk,
    Plan,
    dirty,
    is_stale,
    is_unchanged,
    latest,
    plan_failure,
    plan_removal,
    plan_revision,
)

PAGE_DOCUMENTS = 500
"""Documents whose entries and chunks are read at once."""
SLICE_SECONDS = 0.5
"""Aim for the embedding of one group: long enough for full batches, short enough that documents
become visible while a backlog is worked off, and that a stop is noticed."""
_GROUP_CHUNKS = (32, 16_384)
"""Fewest and most new chunks that are written as one group."""

Change = Revision | Removal | Failed
Prepare = Callable[[Revision], Revision | Failed]
"""Cleans and chunks a revision: fills in `chunks`, or says why it cannot."""
_T = TypeVar("_T")


class Applier:
    """Applies batches of changes to one index. One caller at a time."""

    def __init__(
        self,
        index: Index,
        embedder: Embedder,
        prepare: Prepare,
        *,
        control: Control,
        telemetry: Telemetry,
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._prepare = prepare
        self._control = control
        self._telemetry = telemetry
        self._group_chunks = _GROUP_CHUNKS[0]

    def apply(self, batch: Sequence[Item]) -> None:
        """Bring a batch into the index; a floor is a barrier within it.

        Raises `Stopped`, and `Misconfigured` when a person must act on the store.
        """
        for run in _runs(batch):
            if isinstance(run, Floor):
                self._insist(partial(self._put_floor, run))
            else:
                self._apply_changes(latest(run))

    def _put_floor(self, floor: Floor) -> None:
        with self._index.applying:
            self._index.put_floor(floor)

    def _apply_changes(self, changes: Sequence[Change]) -> None:
        while changes:
            lost: set[Key] = set()
            for start in range(0, len(changes), PAGE_DOCUMENTS):
                page = changes[start : start + PAGE_DOCUMENTS]
                lost |= self._insist(partial(self._apply_page, page))
            # Overtaken between plan and write: read and plan again; mostly they are stale now.
            changes = [change for change in changes if change.key in lost]

    def _apply_page(self, page: Sequence[Change]) -> set[Key]:
        lost: set[Key] = set()
        with self._index.applying:
            for group in self._groups(self._plan(page)):
                lost |= self._carry_out(group)
        return lost

    # --- planning -------------------------------------------------------------------------

    def _plan(self, page: Sequence[Change]) -> list[Plan]:
        keys = [change.key for change in page]
        known = self._index.entries(keys)
        floors = self._index.floors({key.collection for key in keys})
        hidden = self._index.hidden_below({key.collection for key in keys})
        # What was dropped is as if it had never been, but for its chunks, which are to go.
        entries = {
            k: e for k, e in known.items() if e.version >= hidden.get(k.collection, e.version)
        }
        fresh = []
        for change in page:
            floor = floors.get(change.key.collection)
            if not is_stale(change.key, change.version, entries.get(change.key), floor):
                fresh.append(self._complete(change, entries.get(change.key)))
        self._telemetry.stale(len(page) - len(fresh))
        touched = [c.key for c in fresh if c.key in entries and _touches_chunks(c)]
        # Without an entry there may still be orphans: of a crash, or below a floor.
        touched += [
            c.key
            for c in fresh
            if c.key not in entries and (isinstance(c, Revision) or c.key in known)
        ]
        stored = self._index.stored_chunks(touched)
        plans = []
        for change in fresh:
            entry, chunks = entries.get(change.key), stored.get(change.key, {})
            if isinstance(change, Revision):
                plans.append(plan_revision(change, entry, chunks))
            elif isinstance(change, Failed):
                removed = () if entry else tuple(chunks)
                plans.append(plan_failure(change, entry).model_copy(update={"removed": removed}))
            elif change.key in known or change.version != floors.get(change.key.collection):
                plans.append(plan_removal(change, entry, chunks))
            # else: read by a snapshot, excluded and unknown; the snapshot's floor is its tombstone.
        return plans

    def _complete(self, change: Change, entry: Any) -> Change:
        """A revision that was taken for unchanged, but whose entry moved since, is chunked now."""
        if isinstance(change, Revision) and change.skip and not is_unchanged(change, entry):
            return self._prepare(change)
        return change

    def _groups(self, plans: Sequence[Plan]) -> Iterator[list[Plan]]:
        group: list[Plan] = []
        chunks = 0
        for plan in plans:
            group.append(plan)
            chunks += len(plan.new)
            if chunks >= self._group_chunks:
                yield group
                group, chunks = [], 0
        if group:
            yield group

    # --- writing --------------------------------------------------------------------------

    def _carry_out(self, group: Sequence[Plan]) -> set[Key]:
        rejected = self._embed([chunk for plan in group for chunk in plan.new])
        plans = [p if p.entry.key not in rejected else _failed(p, rejected) for p in group]
        self._index.commit(
            [dirty(p.before) for p in plans if p.before and (p.payloads or p.metadata)]
        )
        for plan in plans:
            for point_id, payload in plan.payloads:
                self._index.store.set_payload([point_id], payload)
            if plan.metadata is not None:
                self._index.put_metadata(*plan.metadata)
        lost = self._index.commit([plan.entry for plan in plans])
        kept = [plan for plan in plans if plan.entry.key not in lost]
        self._index.delete([point_id for plan in kept for point_id in plan.removed])
        self._tell(kept)
        return lost

    def _tell(self, plans: Sequence[Plan]) -> None:
        outcomes = Counter("unchanged" if p.unchanged else p.entry.state for p in plans)
        failures = [p.entry for p in plans if p.entry.state == "failed"]
        del outcomes["failed"]
        self._telemetry.applied(outcomes)
        for entry in failures:
            if entry.failure is not None:
                self._telemetry.failed(
                    collection=entry.key.collection,
                    document_id=entry.key.id,
                    step=entry.failure.step,
                    reason=entry.failure.reason,
                )

    def _embed(self, new: Sequence[NewChunk]) -> dict[Key, Rejected]:
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
        if chunks >= self._group_chunks and seconds < SLICE_SECONDS / 2:
            self._group_chunks = min(most, self._group_chunks * 2)
        elif seconds > SLICE_SECONDS * 2:
            self._group_chunks = max(least, self._group_chunks // 2)

    def _insist(self, call: Callable[[], _T]) -> _T:
        return keep_trying(call, self._control)


def _runs(batch: Sequence[Item]) -> Iterator[Floor | list[Change]]:
    """The floors of a batch, and the changes before, between and after them."""
    run: list[Change] = []
    for item in batch:
        if not isinstance(item, Floor):
            run.append(item)
            continue
        yield run
        yield item
        run = []
    yield run


def _touches_chunks(change: Change) -> bool:
    return isinstance(change, Removal) or (
        isinstance(change, Revision) and change.chunks is not None
    )


def _failed(plan: Plan, rejected: Mapping[Key, Rejected]) -> Plan:
    error = rejected[plan.entry.key]
    failure = Failure(step=error.step, reason=error.reason)
    failed = Failed(key=plan.entry.key, version=plan.entry.version, failure=failure)
    # Chunks that the model took before it refused one: no entry will list them.
    stored = tuple(chunk.id for chunk in plan.new)
    return plan_failure(failed, plan.before).model_copy(update={"removed": stored})
