"""Answers queries from one index, each document either as it was or as it is now.

The vector store answers a query at one moment and the ledger is read at a later one, so a commit
may fall between them. What protects a reader:

- The watermark is read first, so the answer holds at least everything up to it.
- A chunk counts only if its document's entry lists it. New chunks are stored before the entry
  that lists them and old ones are removed after it, so an entry that was the same before and
  after a query had all its chunks in the store throughout that query.
- So a page is taken if every document that may just have been committed (its entry is newer than
  the watermark, or does not list one of its hits) had the same entry before the query; else the
  query is put again, now with entries known from before it.

After `ROUNDS` rounds the page is taken as it is: that takes a commit of the same document between
each query and the reading of its entry.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from connectors.index import Index
from connectors.store import Dense, Sparse, Stored
from models import bm25
from models.conditions import All, Condition, Not
from models.embedders import Embedder
from models.ids import key_from_path, public_id
from models.points import StoredChunk, of_keys, read_chunk
from models.records import Entry, Key, Timestamp
from retriever.conditions import search_condition
from retriever.records import (
    ChunkView,
    DocumentView,
    FailureView,
    Hit,
    SearchRequest,
    SearchResponse,
)

ROUNDS = 5
"""How often a page is asked for while commits get in between. Two settle a document that was
written just now; a third is rare even beside a writer that does nothing else."""
SPARE_HITS = 10
"""Asked for beyond the limit: orphans and chunks not committed yet seldom take more places."""
LARGEST_PAGE = 1_000
"""Hits the store is asked for at most. An edit in progress can hide no more than these."""


class _Question(NamedTuple):
    dense: Dense | None
    sparse: Sparse | None
    condition: Condition


class _Page(NamedTuple):
    hits: list[Hit]
    full: bool
    """The store may have more."""
    invisible: set[Key]
    """Documents that were found and do not exist for readers."""


class Retriever:
    """Searches an index. Thread-safe as far as store and embedder are, which both promise it.

    All methods raise `Unavailable` while the store does not answer.
    """

    def __init__(self, index: Index, embedder: Embedder) -> None:
        self.index = index
        self._embedder = embedder

    def search(self, request: SearchRequest) -> SearchResponse:
        """The chunks nearest to the query, best first. `sparse` makes no use of the model.

        Raises `InvalidFilter`, and `Rejected` where the model makes no vector of the query.
        """
        started = time.perf_counter()
        condition = search_condition(request.filter)
        as_of = self.watermark()
        query, mode = request.query, request.mode
        question = _Question(
            dense=None if mode == "sparse" else self._embedder.embed_query(query),
            sparse=None if mode == "dense" else Sparse(*bm25.encode_query(query)),
            condition=condition,
        )
        hits = self._hits(question, request.limit, as_of)
        took = 1_000 * (time.perf_counter() - started)
        return SearchResponse(hits=tuple(hits), as_of=str(as_of), took_ms=round(took, 3))

    def watermark(self) -> Timestamp:
        """The cluster time that an answer given now is `as_of`; `0.0` while it is unknown."""
        return self.index.watermark() or Timestamp(0, 0)

    def document(self, collection: str, id_text: str) -> DocumentView | None:
        """A document's entry and chunks; None if it is unknown or deleted.

        `id_text` is read as `models.ids.key_from_path` says.
        """
        key = key_from_path(collection, id_text)
        view = None
        for _ in range(ROUNDS):
            entry = self._visible([key]).get(key)
            if entry is None:
                return None
            view = _document(entry, self.index.chunks(entry.chunks))
            if len(view.chunks) == len(entry.chunks):
                break
        return view

    # --- details --------------------------------------------------------------------------

    def _hits(self, question: _Question, limit: int, as_of: Timestamp) -> list[Hit]:
        """Ask for more as long as too few hits of a full page are visible."""
        size = limit + SPARE_HITS
        while True:
            page = self._settled_page(question, size, as_of)
            if len(page.hits) >= limit or not page.full or size == LARGEST_PAGE:
                return page.hits[:limit]
            size = min(2 * size, LARGEST_PAGE)
            if page.invisible:
                # A document that was not there is left out from here on, whatever its size.
                absent = Not(condition=of_keys(tuple(page.invisible)))
                question = question._replace(condition=All(conditions=(question.condition, absent)))

    def _settled_page(self, question: _Question, size: int, as_of: Timestamp) -> _Page:
        before: Mapping[Key, Entry] = {}
        for _ in range(ROUNDS):
            found = self.index.store.query(**question._asdict(), limit=size)
            chunks = [(read_chunk(s.id, s.payload), s) for s in found]
            entries = self._visible({chunk.key for chunk, _ in chunks})
            hits, doubtful = _sift(chunks, entries, as_of)
            if all(before.get(key) == entries[key] for key in doubtful):
                break
            before = entries
        invisible = {chunk.key for chunk, _ in chunks} - entries.keys()
        return _Page(hits, len(found) == size, invisible)

    def _visible(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """The entries of the documents that exist for readers."""
        entries = self.index.entries(keys)
        hidden = self.index.hidden_below({key.collection for key in entries})
        return {
            key: entry
            for key, entry in entries.items()
            if entry.state != "deleted"
            and entry.version >= hidden.get(key.collection, entry.version)
        }


def _sift(
    found: Iterable[tuple[StoredChunk, Stored]], entries: Mapping[Key, Entry], as_of: Timestamp
) -> tuple[list[Hit], set[Key]]:
    """The hits that count, and the documents that may have been committed during the query."""
    places = {key: {id_: place for place, id_ in enumerate(e.chunks)} for key, e in entries.items()}
    doubtful = {key for key, entry in entries.items() if entry.version[:2] > as_of}
    hits = []
    for chunk, stored in found:
        listed = places.get(chunk.key)
        if listed is None:
            continue
        if chunk.id in listed:
            hits.append(_hit(chunk, stored.score, entries[chunk.key], listed[chunk.id]))
        else:
            doubtful.add(chunk.key)
    return hits, doubtful


def _hit(chunk: StoredChunk, score: float, entry: Entry, position: int) -> Hit:
    return Hit(
        id=chunk.id,
        score=score,
        document_id=public_id(chunk.key),
        collection=chunk.key.collection,
        position=position,
        title=entry.title,
        text=chunk.text,
        metadata=chunk.metadata,
    )


def _document(entry: Entry, chunks: Mapping[str, StoredChunk]) -> DocumentView:
    there = [(place, chunks[i]) for place, i in enumerate(entry.chunks) if i in chunks]
    failure = entry.failure if entry.state == "failed" else None
    return DocumentView(
        document_id=public_id(entry.key),
        collection=entry.key.collection,
        state="failed" if entry.state == "failed" else "indexed",
        version=".".join(map(str, entry.version)),
        title=entry.title,
        metadata=there[0][1].metadata if there else {},
        failure=FailureView(**failure.model_dump()) if failure else None,
        chunks=tuple(
            ChunkView(id=c.id, position=place, text=c.text, headings=c.headings)
            for place, c in there
        ),
    )
