"""Is the index equal to the database? A comparison both ways, and on request a repair.

Pass 1 reads every document and looks for what it should be in the index; pass 2 reads every entry
and every chunk point and looks for its document. Works while the flow runs and writers write, in
memory for one batch of documents and `MAX_SUSPECTS` keys. Nothing is embedded by comparing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from connectors.index import Index
from connectors.mongo_reader import DocumentReader
from flows.verify_compare import Comparison, Steps, bson_ids, by_collection
from flows.verify_pair import Finding
from flows.verify_repair import Apply, Repairer
from flows.verify_report import Drift, Kind, Tally, VerifyReport
from flows.verify_settle import Settler
from models.conditions import Match
from models.ids import key_of
from models.points import OWN, in_collection, of_kind, read_chunk, read_entry
from models.records import UNREAD, Entry, Key, Removal, Timestamp

__all__ = ["Drift", "Kind", "Progress", "VerifyReport", "verify"]

BATCH_POINTS = 500
"""Entries or chunks of pass 2 that are looked up at once."""
MAX_SUSPECTS = 2_000
"""Keys kept before they are looked at again; each such look costs one wait for the watermark."""

NEVER = threading.Event().wait
"""The stop of a comparison that nobody stops."""

Progress = Callable[[int, int, str], None]
_T = TypeVar("_T")


def verify(
    index: Index,
    reader: DocumentReader,
    steps: Steps,
    *,
    deep: bool = False,
    repair: Apply | None = None,
    forget: bool = False,
    progress: Progress = lambda done, total, what: None,
    settle_seconds: float = 5.0,
    stop: Callable[[float], bool] = NEVER,
) -> VerifyReport:
    """Compare every document, entry and chunk.

    `deep` also cleans and chunks every document and compares the ids, their order and the stored
    text. `repair` is an apply step: each drift is repaired as soon as it is confirmed, and the
    report tells what remains. `forget`: what messages that could not be read may have said, the
    index says, if it turns out to be in sync; those that stood there before are then forgotten.
    `progress(done, total, what)` hears of `documents`, `entries` and
    `chunks`; totals are estimates. `settle_seconds`: how long the index may take to catch up with
    what was written meanwhile before that counts as drift.

    `stop(seconds)` waits so long, or until a stop is asked for, and tells whether it was.

    Raises `Unavailable` when database or store do not answer, and `Stopped` once `stop(0)`.
    """
    comparison = Comparison(index, reader, steps, deep=deep, stop=stop)
    unread = index.unread() if forget else []
    report = _Verification(comparison, settle_seconds, repair, progress).run()
    if report.in_sync and unread:
        index.forget(unread)
        report = report.model_copy(update={"unread": len(index.unread())})
    return report


class _Verification:
    """One run of `verify`."""

    def __init__(
        self,
        comparison: Comparison,
        settle_seconds: float,
        repair: Apply | None,
        progress: Progress,
    ) -> None:
        self._comparison = comparison
        self._index = comparison.index
        self._reader = comparison.reader
        self._settler = Settler(comparison, settle_seconds)
        self._repairer = Repairer(comparison, self._settler, repair) if repair else None
        self._progress = progress
        self._tally = Tally()
        self._suspects: set[Key] = set()
        self._is_moving = False
        self._listed = 0
        self._scrolled_from = ""

    def run(self) -> VerifyReport:
        began, started = self._comparison.note_time(), time.perf_counter()
        self._compare_documents()
        self._compare_entries()
        self._compare_chunks()
        return self._report(began, time.perf_counter() - started)

    # --- pass 1: from the database to the index -----------------------------------------------

    def _compare_documents(self) -> None:
        collections = self._reader.list_collections()
        total = sum(self._reader.estimate(name) for name in collections)
        for collection in collections:
            for batch in self._reader.read(collection):
                items = self._comparison.map(collection, batch)
                self._suspect(finding.key for finding in self._comparison.examine(items))
                self._tally.documents += len(items)
                self._tally.included += sum(not isinstance(item, Removal) for item in items)
                self._progress(self._tally.documents, total, "documents")
        self._settle()

    # --- pass 2: from the index to the database -----------------------------------------------

    def _compare_entries(self) -> None:
        live = of_kind("entry", Match(path=(OWN, "state"), values=("indexed", "failed")))
        total, done = self._index.store.count(live), 0
        scroll = self._index.scroll(live, payload=[OWN], page=BATCH_POINTS)
        for batch in _batches(scroll, BATCH_POINTS):
            self._comparison.pause_point()
            found = [read_entry(stored.payload) for stored in batch]
            entries = [entry for entry in found if entry.key.collection != UNREAD]
            self._listed += sum(len(entry.chunks) for entry in entries)
            self._suspect(self._without_document([e.key for e in self._visible(entries)]))
            done += len(batch)
            self._progress(done, total, "entries")
        self._settle()

    def _compare_chunks(self) -> None:
        total, done = self._index.store.count(of_kind("chunk")), 0
        scroll = self._index.scroll(of_kind("chunk"), payload=[OWN], page=BATCH_POINTS)
        for batch in _batches(scroll, BATCH_POINTS):
            self._comparison.pause_point()
            self._scrolled_from = self._scrolled_from or batch[0].id
            keys = list({read_chunk(stored.id, stored.payload).key for stored in batch})
            entries = self._index.entries(keys)
            dead = [k for k in keys if k not in entries or entries[k].state == "deleted"]
            # Documents that exist were compared in pass 1, stray chunks included.
            self._suspect(self._without_document(dead))
            done += len(batch)
            self._progress(done, total, "chunks")
        self._settle()

    def _visible(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those not below their collection's floor, which readers do not see and sweeps remove."""
        floors = self._index.hidden_below({entry.key.collection for entry in entries})
        visible = [e for e in entries if e.version >= floors.get(e.key.collection, e.version)]
        self._is_moving |= len(visible) < len(entries)
        return visible

    def _without_document(self, keys: Sequence[Key]) -> set[Key]:
        absent = set(keys)
        for collection, group in by_collection(keys).items():
            existing = self._reader.find_existing(collection, bson_ids(group))
            absent -= {key_of(collection, id_) for id_ in existing}
        return absent

    # --- suspects -----------------------------------------------------------------------------

    def _suspect(self, keys: Iterable[Key]) -> None:
        self._suspects.update(keys)
        if len(self._suspects) >= MAX_SUSPECTS:
            self._settle()

    def _settle(self) -> None:
        suspects, self._suspects = self._suspects, set()
        settled = self._settler.confirm(suspects)
        self._is_moving |= len(settled.drift) < len(suspects)
        drift = [finding for finding in settled.drift if not self._is_told(finding)]
        self._scrolled_from = ""
        self._tally.unsettled += settled.unsettled
        self._tally.add_found(drift for finding in drift for drift in finding.drifts)
        self._tally.orphaned_chunks += sum(len(finding.stray) for finding in drift)
        if self._repairer and drift:
            settled = self._repairer.repair(drift)
            self._tally.unsettled += settled.unsettled
            self._tally.repaired += len(drift) - len(settled.drift) - settled.unsettled
            drift = settled.drift
        self._tally.add_remaining(one for finding in drift for one in finding.drifts)

    def _is_told(self, finding: Finding) -> bool:
        """Whether the chunks of pass 2 have led to this document before: they come by id."""
        return bool(finding.stray) and finding.stray[0] < self._scrolled_from

    # --- the end ------------------------------------------------------------------------------

    def _report(self, began: Timestamp, seconds: float) -> VerifyReport:
        counts, tally = self._index.counts(), self._tally
        unread = self._index.store.count(of_kind("entry", in_collection(UNREAD)))
        entries = counts.indexed + counts.failed - unread
        is_quiet = not (self._is_moving or tally.found) and self._reader.cluster_time() == began
        wanted = (tally.included, self._listed)
        if is_quiet and wanted != (entries, counts.chunks):
            detail = (
                f"{tally.included} documents with {self._listed} chunks were compared, "
                f"the index counts {entries} with {counts.chunks}"
            )
            drift = Drift(kind="miscounted", collection="", document_id="", detail=detail)
            tally.add_found([drift])
            tally.add_remaining([drift])
        watermark = self._index.watermark()
        return VerifyReport(
            in_sync=not tally.remaining,
            documents=tally.documents,
            entries=entries,
            chunks=counts.chunks,
            failed=counts.failed - unread,
            unread=unread,
            counts=dict(tally.remaining),
            examples=tuple(tally.examples),
            found=dict(tally.found),
            deep=self._comparison.deep,
            repaired=tally.repaired,
            orphaned_chunks=tally.orphaned_chunks,
            unsettled=tally.unsettled,
            took_seconds=round(seconds, 3),
            as_of=str(watermark) if watermark else None,
        )


def _batches(items: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while batch := list(islice(items, size)):
        yield batch
