"""The apply step: read, plan, embed and write, for a batch of documents at once.

It is one step, so that no second plan is made between a plan and its write. Everything it does is
a difference against what is stored, so doing it again after a crash costs reads and nothing else.

Delivery: when `apply` returns, every change of the batch is in the index or was overtaken by a
newer one. It raises `Stopped` when a stop is asked for in the middle; chunks embedded by then are
kept, so the restart does not embed them again. While the index is away it waits.

Several may work on one index, also on one document, and any of them may stall between two writes:
docs/decisions/0008-several-writers.md says what each write is guarded against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any, TypeVar

from connectors.index import Index, Unlisted
from connectors.ledger import Standing
from flows.embedding import Embedding
from flows.isolated import Change, Isolated
from models.embedders import Embedder
from models.points import StoredChunk
from models.records import (
    Entry,
    Failed,
    Failure,
    Floor,
    Item,
    Key,
    Removal,
    Revision,
)
from syncline.control import Control
from syncline.errors import Rejected
from syncline.retry import keep_trying
from syncline.telemetry import Telemetry
from transforms.plan import (
    Plan,
    dirty,
    is_stale,
    is_unchanged,
    latest,
    merged,
    plan_failure,
    plan_removal,
    plan_revision,
)

PAGE_DOCUMENTS = 500
"""Documents whose entries and chunks are read at once."""

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
        self._embedding = Embedding(index, embedder, control, telemetry)
        self._prepare = prepare
        self._control = control
        self._telemetry = telemetry
        self._isolated = Isolated(lambda *page: self._insist(partial(self._apply_page, *page)))

    def apply(self, batch: Sequence[Item]) -> None:
        """Bring a batch into the index; a floor is a barrier within it.

        Raises `Stopped`, and `Misconfigured` when a person must act on the store.
        """
        for run in _runs(batch):
            if isinstance(run, Floor):
                self._insist(partial(self._put_floor, run))
            else:
                self._apply_changes(latest(run), merged(run))

    def _put_floor(self, floor: Floor) -> None:
        with self._index.applying:
            self._index.put_floor(floor)

    def _apply_changes(self, changes: Sequence[Change], merged: Set[Key]) -> None:
        while changes:
            lost: set[Key] = set()
            for start in range(0, len(changes), PAGE_DOCUMENTS):
                lost |= self._isolated(changes[start : start + PAGE_DOCUMENTS], merged)
            # Overtaken between plan and write: read and plan again; mostly they are stale now.
            changes = [change for change in changes if change.key in lost]

    def _apply_page(self, page: Sequence[Change], merged: Set[Key]) -> set[Key]:
        lost: set[Key] = set()
        with self._index.applying:
            standing = self._index.standing([change.key for change in page])
            for group in self._groups(self._plan(page, standing, merged)):
                lost |= self._carry_out(group, standing.entries)
        return lost

    # --- planning -------------------------------------------------------------------------

    def _plan(self, page: Sequence[Change], standing: Standing, merged: Set[Key]) -> list[Plan]:
        known, floors = standing.entries, standing.floors
        # What was dropped is as if it had never been, but for its chunks, which are to go.
        entries = {k: e for k, e in known.items() if not standing.hides(e)}
        fresh = []
        for change in page:
            floor = floors.get(change.key.collection)
            if not is_stale(change.key, change.version, entries.get(change.key), floor):
                fresh.append(self._complete(change, entries.get(change.key), merged))
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
            key, entry, chunks = change.key, entries.get(change.key), stored.get(change.key, {})
            if isinstance(change, Revision):
                plans.append(plan_revision(change, entry, chunks, trusted=key not in merged))
            elif isinstance(change, Failed):
                removed = () if entry else tuple(chunks)
                plans.append(plan_failure(change, entry).model_copy(update={"removed": removed}))
            elif key in known or change.version != floors.get(key.collection):
                plans.append(plan_removal(change, entry, chunks))
            # else: read by a snapshot, excluded and unknown; the snapshot's floor is its tombstone.
        return plans

    def _complete(self, change: Change, entry: Any, merged: Set[Key]) -> Change:
        """A revision that was taken for unchanged is chunked now if its entry moved since, or if
        its chunks cannot be taken as they are. So is one that comes again: whoever wrote its entry
        may have died before it removed the chunks that the entry no longer lists."""
        if not isinstance(change, Revision) or not change.skip:
            return change
        is_new = entry is not None and change.version > entry.version
        trusted = is_new and is_unchanged(change, entry) and change.key not in merged
        return change if trusted else self._prepare(change)

    def _groups(self, plans: Sequence[Plan]) -> Iterator[list[Plan]]:
        group: list[Plan] = []
        chunks = 0
        for plan in plans:
            group.append(plan)
            chunks += len(plan.new)
            if chunks >= self._embedding.group_chunks:
                yield group
                group, chunks = [], 0
        if group:
            yield group

    # --- writing --------------------------------------------------------------------------

    def _carry_out(self, group: Sequence[Plan], known: Mapping[Key, Entry]) -> set[Key]:
        rejected = self._embedding.store([chunk for plan in group for chunk in plan.new])
        plans = [p if p.entry.key not in rejected else _failed(p, rejected) for p in group]
        announced = {
            p.entry.key: dirty(p.before, p.entry.version)
            for p in plans
            if p.before and p.must_announce
        }
        lost = self._index.commit([*announced.values()], against=known) if announced else set()
        plans = [plan for plan in plans if plan.entry.key not in lost]
        for plan in plans:
            self._rewrite(plan)
        lost |= self._unsettled(plans)
        plans = [plan for plan in plans if plan.entry.key not in lost]
        if plans:
            against = {**known, **announced}
            lost |= self._index.commit([plan.entry for plan in plans], against=against)
        kept = [plan for plan in plans if plan.entry.key not in lost]
        self._index.delete_unlisted([_unlisted(plan, known) for plan in kept])
        self._tell(kept)
        return lost

    def _rewrite(self, plan: Plan) -> None:
        """Stamp first: what is stamped, no older writer changes between the two writes."""
        stamped = {*plan.metadata, *(chunk.id for chunk in plan.adopted)}
        if stamped:
            self._index.stamp(sorted(stamped), plan.entry.version)
        for chunk in plan.headings:
            self._index.put_own(chunk)
        if plan.metadata:
            self._index.put_metadata(plan.metadata, plan.wanted, plan.entry.version)

    def _unsettled(self, plans: Sequence[Plan]) -> set[Key]:
        """Documents whose entry may not be written as planned, because an older writer stored or
        rewrote one of their chunks, or removed it. What a newer one wrote is for it to commit."""
        new = [chunk.id for plan in plans for chunk in plan.new]
        adopted = [chunk.id for plan in plans for chunk in plan.adopted]
        now = self._index.look_at([*new, *adopted])
        return {plan.entry.key for plan in plans if not _is_settled(plan, now)}

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
    return plan_failure(failed, plan.before).model_copy(
        update={"removed": stored, "stored_by_itself": True}
    )


def _is_settled(plan: Plan, now: Mapping[str, StoredChunk]) -> bool:
    version = plan.entry.version
    stored = [now.get(chunk.id) for chunk in plan.new]
    taken = [(now.get(chunk.id), chunk) for chunk in plan.adopted]
    return all(found is not None and found.version >= version for found in stored) and all(
        found is not None and (found.version > version or found == chunk) for found, chunk in taken
    )


def _unlisted(plan: Plan, known: Mapping[Key, Entry]) -> Unlisted:
    """A version that is applied again may say otherwise: a snapshot's page that was read twice."""
    key, version = plan.entry.key, plan.entry.version
    again = key in known and known[key].version == version
    return Unlisted(key, plan.removed, version, inclusive=again or plan.stored_by_itself)
