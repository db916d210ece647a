"""How much memory `verify` needs for a million documents, and how long it takes.

    python -m benchmarks.verify_memory [--documents 1000000] [--deep]

Database and index are made up as they are read and keep nothing, so that what grows is the
comparison itself. One document in a thousand differs, in one of four ways. The peak is the
process's resident memory beyond what it had before the comparison began.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.store import Stored
from flows.steps import Steps
from flows.verify import verify
from models.conditions import All, Condition, Match
from models.embedders import HashEmbedder
from models.ids import chunk_id, entry_id, key_of
from models.points import OWN, chunk_payload, entry_payload
from models.records import ChunkPoint, Entry, Key, Revision, Timestamp, Upsert, Version
from syncline.control import Control
from syncline.rules import MappingRule
from transforms.chunk import Chunker
from transforms.plan import identify

RESULTS = Path(__file__).parent / "results"
COLLECTION = "many"
DIFFERS_EVERY = 1_000
PAGE_DOCUMENTS = 500
REMEMBERED = 5_000
"""Documents whose entries can be asked for by id: those that were met last."""
LIMIT_MB = 200.0


def main() -> int:
    """Compare, print, and write JSON by date. 1 if it took more than `LIMIT_MB`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify_memory", description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    steps = _steps()
    recent = Recent()
    index = Index(MadeUpIndex(options.documents, steps, recent))
    database = MadeUpDatabase(options.documents, recent)
    before, started = _resident_mb(), time.perf_counter()
    report = verify(index, database, steps, deep=options.deep, settle_seconds=0)
    seconds = time.perf_counter() - started
    figures = {
        "date": datetime.date.today().isoformat(),
        "documents": report.documents,
        "deep": options.deep,
        "found": dict(report.found),
        "seconds": round(seconds, 1),
        "documents_per_second": round(report.documents / seconds),
        "resident_before_mb": round(before, 1),
        "peak_beyond_mb": round(_peak_mb() - before, 1),
    }
    print(json.dumps(figures, indent=1))
    options.results.mkdir(parents=True, exist_ok=True)
    name = f"{figures['date']}-verify-memory{'-deep' if options.deep else ''}.json"
    (options.results / name).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if _peak_mb() - before < LIMIT_MB else 1


class Recent:
    """Which documents the last ids belong to: a point's id does not tell."""

    def __init__(self) -> None:
        self._ids: OrderedDict[int, str] = OrderedDict()
        self._numbers: dict[str, int] = {}

    def meet(self, number: int) -> str:
        """The id of its entry, by which it is known from now on."""
        found = self._ids.get(number)
        if found is None:
            found = self._ids[number] = entry_id(Key(COLLECTION, str(number)))
            self._numbers[found] = number
            if len(self._ids) > REMEMBERED:
                del self._numbers[self._ids.popitem(last=False)[1]]
        return found

    def known(self, ids: Sequence[str]) -> list[int]:
        """The documents whose entries these are."""
        return [self._numbers[id_] for id_ in ids if id_ in self._numbers]


class MadeUpDatabase:
    """A `DocumentReader` of `documents` documents with the `_id`s 0, 1, ..."""

    def __init__(self, documents: int, recent: Recent) -> None:
        self._documents = documents
        self._recent = recent

    def cluster_time(self) -> Timestamp:
        """Always the same: nobody writes."""
        return Timestamp(1_000, 1)

    def list_collections(self) -> list[str]:
        """The one there is."""
        return [COLLECTION]

    def estimate(self, collection: str) -> int:
        """Exactly."""
        return self._documents

    def read(self, collection: str) -> Iterator[list[dict[str, Any]]]:
        """All of them, page by page."""
        for start in range(0, self._documents, PAGE_DOCUMENTS):
            page = range(start, min(start + PAGE_DOCUMENTS, self._documents))
            yield from self.find_many(collection, page)

    def find_many(self, collection: str, ids: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
        """Those among `ids` that exist."""
        yield [_fields(number) for number in self.find_existing(collection, ids)]

    def find_existing(self, collection: str, ids: Sequence[Any]) -> list[Any]:
        """The `_id`s among `ids` that exist."""
        for number in ids:
            self._recent.meet(number)
        return [number for number in ids if number < self._documents]


class MadeUpIndex(MemoryStore):
    """The index of `MadeUpDatabase`, read-only: one entry and one chunk a document, each made when
    it is asked for; `_difference` says where it is damaged. It has no recipe, no floors."""

    def __init__(self, documents: int, steps: Steps, recent: Recent) -> None:
        super().__init__()
        self._numbers = documents + documents // DIFFERS_EVERY
        self._recent = recent
        entry, chunk = _prepared(steps)
        self._entry_of_0, self._chunk_of_0 = entry_payload(entry)[OWN], chunk_payload(chunk)

    def exists(self) -> bool:
        """It does."""
        return True

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | Sequence[str] = True, dense: bool = False
    ) -> list[Stored]:
        """Entries of documents that were met before."""
        return self._entries(self._recent.known(ids))

    def scroll(
        self,
        condition: Condition,
        *,
        limit: int,
        after: str | None = None,
        payload: bool | Sequence[str] = True,
        dense: bool = False,
    ) -> tuple[list[Stored], str | None]:
        """All entries, all chunks, or the chunks of some documents; by number, not by id."""
        kind, numbers = _asked_for(condition)
        if kind not in ("entry", "chunk"):
            return [], None
        make = self._entries if kind == "entry" else self._chunks
        if numbers is not None:
            return make(numbers), None
        start = int(after or 0)
        end = min(start + limit, self._numbers)
        return make(range(start, end)), None if end == self._numbers else str(end)

    def count(self, condition: Condition) -> int:
        """About."""
        return self._numbers

    def _entries(self, numbers: Sequence[int]) -> list[Stored]:
        return [self._entry(number) for number in numbers if _difference(number) != "missing"]

    def _entry(self, number: int) -> Stored:
        own = {**self._entry_of_0, **_identity(number), "chunks": [self._chunk_id(number)]}
        if _difference(number) == "stale":
            own["digest"] = "0" * 32
        return Stored(self._recent.meet(number), {OWN: own})

    def _chunks(self, numbers: Sequence[int]) -> list[Stored]:
        return [self._stored_chunk(n) for n in numbers if _difference(n) != "missing_chunk"]

    def _stored_chunk(self, number: int) -> Stored:
        self._recent.meet(number)
        payload = self._chunk_of_0
        own = {**payload[OWN], **_identity(number)}
        return Stored(self._chunk_id(number), {**payload, OWN: own})

    def _chunk_id(self, number: int) -> str:
        return chunk_id(Key(COLLECTION, str(number)), self._chunk_of_0[OWN]["hash"], 0)


def _fields(number: int) -> dict[str, Any]:
    return {"_id": number, "title": "A note", "text": "The same in every document.", "tag": "a"}


def _difference(number: int) -> str:
    """How a document that exists differs; those beyond the last one are orphaned anyway."""
    kinds = {1: "missing", 2: "stale", 3: "missing_chunk"}
    return kinds.get(number // DIFFERS_EVERY % 4, "") if number % DIFFERS_EVERY == 7 else ""


def _asked_for(condition: Condition) -> tuple[str, list[int] | None]:
    """Points of which kind, and of which documents: None for all."""
    assert isinstance(condition, All)
    kind, *others = [c.values for c in condition.conditions if isinstance(c, Match)]
    if kind[0] != "chunk" or not others:
        return str(kind[0]), None
    return "chunk", [int(str(key).rpartition("/")[2]) for key in others[0]]


def _steps() -> Steps:
    embedder = HashEmbedder(64, 64)
    index = Index(MemoryStore())
    return Steps(lambda _: MappingRule(), Chunker(embedder, 64), index, Control())


def _identity(number: int) -> dict[str, str]:
    return {"key": f"{COLLECTION}/{number}", "document_id": str(number)}


def _prepared(steps: Steps) -> tuple[Entry, ChunkPoint]:
    """The entry and the chunk of document 0: those of the others differ in their names alone."""
    key, version = key_of(COLLECTION, 0), Version(1_000, 1)
    item = steps.map_change(Upsert(key=key, version=version, fields=_fields(0)))
    assert isinstance(item, Revision)
    revision = steps.prepare(item)
    assert isinstance(revision, Revision)
    ((id_, (hash_, chunk)),) = identify(key, revision.chunks or ()).items()
    entry = Entry(
        key=key,
        version=version,
        state="indexed",
        digest=revision.digest,
        metadata_digest=revision.metadata_digest,
        chunks=(id_,),
        title=revision.document.title,
    )
    point = ChunkPoint(
        id=id_,
        key=key,
        version=version,
        hash=hash_,
        chunk=chunk,
        dense=None,
        sparse=((), ()),
        metadata=revision.document.metadata,
    )
    return entry, point


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    sys.exit(main())
