"""Writes documents into MongoDB so that doing it twice changes nothing.

Each batch is compared with what the collection holds; only what differs is written, by one
unordered bulk of upserts. So a repeated load makes no change events, and nothing is embedded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from connectors.mongo import translated
from models.records import Record
from syncline.files import Read, Source, find_files, read_file
from syncline.progress import Advance, Reporter, silent

MAX_DOCUMENT_BYTES = 16 << 20
"""MongoDB's own limit."""
BATCH_DOCUMENTS = 1000
BATCH_BYTES = 24 << 20
"""With its last document a batch stays below 40 MiB; one message may hold 48 MB."""
SHOWN_PROBLEMS = 1000
"""So many are kept for the report; the rest is only counted."""


class LoadReport(Record):
    """What a load did. `documents` were readable: `written` of them, the rest `unchanged`."""

    target: str
    files: int
    documents: int
    written: int
    unchanged: int
    problem_count: int
    problems: tuple[str, ...]
    """`place: reason`, the first thousand."""


def load(
    paths: Sequence[Path], collection: Collection[Any], *, progress: Reporter = silent
) -> LoadReport:
    """Load files, and directories recursively, into `collection`.

    JSONL lines are documents as they are (Extended JSON; `_id`, where it is missing, from file
    name and line). Every other file becomes one document: `_id` and `path` (relative to the
    directory that was named), `title`, `text`, `content_type` and `modified`. What cannot be read
    or is refused by the server is reported, the rest is loaded. Of the same `_id` twice, the later
    counts. Raises `Misconfigured` for paths, before anything is written; `Unavailable`.
    """
    sources, clashes = _distinct(find_files(paths))
    total = sum(source.path.stat().st_size for source in sources)
    with progress(f"loading {len(sources)} files", total, "bytes") as advance:
        reads = chain.from_iterable(map(read_file, sources))
        return _write(chain(clashes, reads), collection, advance, files=len(sources))


def load_documents(
    documents: Sequence[Mapping[str, Any]],
    collection: Collection[Any],
    *,
    progress: Reporter = silent,
) -> LoadReport:
    """As `load`, for documents that are there already; each must have an `_id`."""
    title = f"loading {collection.name}"
    with progress(title, len(documents), "documents") as advance:
        reads = (Read(str(document["_id"]), 1, dict(document)) for document in documents)
        return _write(reads, collection, advance)


def _distinct(sources: Sequence[Source]) -> tuple[list[Source], list[Read]]:
    """The sources without those whose name, and so whose `_id`, is taken; and a problem each."""
    taken: dict[str, Path] = {}
    clashes = [
        Read(str(path), 0, None, f"left out: {taken[name]} has the same name, {name}")
        for path, name in sources
        if taken.setdefault(name, path) != path
    ]
    return [Source(path, name) for name, path in taken.items()], clashes


def _write(
    reads: Iterable[Read], collection: Collection[Any], advance: Advance, *, files: int = 0
) -> LoadReport:
    writer = _Writer(collection)
    for read in reads:
        if read.document is not None:
            writer.add(read.origin, read.document)
        elif read.problem:
            writer.refuse(read.origin, read.problem)
        advance(read.size)
    writer.flush()
    return LoadReport(
        target=collection.full_name,
        files=files,
        documents=writer.written + writer.unchanged,
        written=writer.written,
        unchanged=writer.unchanged,
        problem_count=writer.problem_count,
        problems=tuple(writer.problems),
    )


class _Writer:
    """Gathers batches, bounded by count and bytes, and writes what differs."""

    def __init__(self, collection: Collection[Any]) -> None:
        self.written = self.unchanged = self.problem_count = 0
        self.problems: list[str] = []
        self._collection = collection
        self._stored = collection.with_options(codec_options=CodecOptions(RawBSONDocument))
        self._batch: dict[bytes, tuple[str, RawBSONDocument]] = {}
        self._bytes = 0

    def refuse(self, origin: str, reason: str) -> None:
        self.problem_count += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(f"{origin}: {reason}")

    def add(self, origin: str, document: Mapping[str, Any]) -> None:
        try:
            raw = bson.encode({"_id": document["_id"], **document})
        except (BSONError, ValueError, TypeError, OverflowError, RecursionError) as error:
            self.refuse(origin, str(error))
            return
        if len(raw) > MAX_DOCUMENT_BYTES:
            self.refuse(origin, f"{len(raw):,} bytes, MongoDB takes {MAX_DOCUMENT_BYTES:,}")
            return
        self._batch[_identity(document["_id"])] = origin, RawBSONDocument(raw)
        self._bytes += len(raw)
        if len(self._batch) >= BATCH_DOCUMENTS or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, {}, 0
        with translated():
            stored = _retrieve(self._stored, [raw["_id"] for _, raw in batch.values()])
            changed = [
                (origin, raw)
                for identity, (origin, raw) in batch.items()
                if stored.get(identity) != raw.raw
            ]
            refused = _replace(self._collection, [raw for _, raw in changed])
        for index, reason in refused.items():
            self.refuse(changed[index][0], reason)
        self.written += len(changed) - len(refused)
        self.unchanged += len(batch) - len(changed)


def _identity(bson_id: Any) -> bytes:
    """Equal for equal `_id`s of one BSON type, and hashable for all of them."""
    return bson.encode({"": bson_id})


def _retrieve(collection: Collection[RawBSONDocument], ids: Sequence[Any]) -> dict[bytes, bytes]:
    found = collection.find({"_id": {"$in": list(ids)}}) if ids else ()
    return {_identity(document["_id"]): bytes(document.raw) for document in found}


def _replace(collection: Collection[Any], documents: Sequence[RawBSONDocument]) -> dict[int, str]:
    """Upsert all; by position, the reasons of those that the server refused."""
    if not documents:
        return {}
    writes: list[Any] = [ReplaceOne({"_id": raw["_id"]}, raw, upsert=True) for raw in documents]
    try:
        collection.bulk_write(writes, ordered=False)
    except BulkWriteError as error:
        failed: Sequence[Mapping[str, Any]] = (error.details or {}).get("writeErrors", ())
        if not failed:
            raise
        return {int(one["index"]): str(one["errmsg"]) for one in failed}
    return {}
