"""A small index written by hand as the apply step would, and a store that lets writes between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.index import Index
from connectors.store import Store, Stored
from models import bm25
from models.conditions import All
from models.embedders import HashEmbedder
from models.ids import key_of
from models.points import CODEC_VERSION
from models.records import (
    Chunk,
    ChunkPoint,
    Entry,
    Failure,
    Floor,
    Key,
    Position,
    Recipe,
    Timestamp,
    Version,
)
from retriever.records import Hit, Mode, SearchRequest, SearchResponse
from retriever.search import Retriever
from transforms.plan import identify

RECIPE = Recipe(
    model="hash-256", dimension=256, max_tokens=256, chunker="none", codec=CODEC_VERSION
)


class Interrupting:
    """A store that runs `after_query` between answering a query and handing the answer over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.after_query: Callable[[], None] = lambda: None
        self.queries = 0

    def query(self, **request: Any) -> list[Stored]:
        """As the store does; then the write that comes in between."""
        found = self._store.query(**request)
        self.queries += 1
        self.after_query()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class NoModel(HashEmbedder):
    """An embedder that must not be used."""

    def embed_query(self, text: str) -> Any:
        """Fails the test."""
        raise AssertionError("the model was used")


class Shelf:
    """Documents in an index that is emptied first, and the retriever over it."""

    def __init__(self, store: Store) -> None:
        store.create(RECIPE.dimension)
        store.delete_where(All(conditions=()))
        self.store = Interrupting(store)
        self.embedder = HashEmbedder()
        self.index = Index(self.store)
        self.index.open(RECIPE)
        self.retriever = Retriever(self.index, self.embedder)

    def put(
        self, doc_id: Any, *texts: str, at: int = 10, collection: str = "notes", **fields: Any
    ) -> None:
        """A document with these chunks at version `(at, 1)`; what it listed before is removed."""
        key = key_of(collection, doc_id)
        before = self.index.entries([key])
        old = before[key].chunks if before else ()
        now = self.stage(doc_id, *texts, collection=collection, **fields.pop("metadata", {}))
        self.commit(doc_id, now, at=at, collection=collection, **fields)
        self.index.delete([i for i in old if i not in now])

    def stage(
        self, doc_id: Any, *texts: str, collection: str = "notes", **metadata: Any
    ) -> tuple[str, ...]:
        """Chunks that no entry lists yet; returns their ids."""
        key = key_of(collection, doc_id)
        chunks = [Chunk(text=text, input=text, headings=("Top",)) for text in texts]
        identified = identify(key, chunks)
        self.index.put_chunks(self._points(key, identified, metadata))
        return tuple(identified)

    def commit(
        self,
        doc_id: Any,
        chunks: Sequence[str],
        *,
        at: int,
        collection: str = "notes",
        **fields: Any,
    ) -> None:
        """The entry that lists `chunks`."""
        fields = {"state": "indexed", "title": f"Title of {doc_id}", **fields}
        key = key_of(collection, doc_id)
        self.index.commit([Entry(key=key, version=Version(at, 1), chunks=tuple(chunks), **fields)])

    def delete(self, doc_id: Any, *, at: int, collection: str = "notes") -> None:
        """A tombstone, and its chunks removed."""
        key = key_of(collection, doc_id)
        old = self.index.entries([key])[key].chunks
        self.index.commit([Entry(key=key, version=Version(at, 1), state="deleted")])
        self.index.delete(old)

    def fail(
        self, doc_id: Any, *, at: int, chunks: Sequence[str] = (), collection: str = "notes"
    ) -> None:
        """The newest version failed; `chunks` are of the last good one."""
        failure = Failure(step="map", reason="no <text> there", attempts=2)
        self.commit(doc_id, chunks, at=at, collection=collection, state="failed", failure=failure)

    def drop(self, collection: str, *, at: int) -> None:
        """A floor; nothing is removed yet."""
        self.index.put_floor(Floor(collection=collection, version=Version(at, 1)))

    def reflect(self, seconds: int) -> None:
        """Move the watermark to `<seconds>.1`."""
        start, mark = Version(1, 1), Timestamp(seconds, 1)
        self.index.put_position(Position(scope="test", start=start, watermark=mark))

    def search(
        self, query: str, limit: int = 10, mode: Mode = "hybrid", **filters: Any
    ) -> SearchResponse:
        """A search through the retriever."""
        request = SearchRequest(query=query, limit=limit, mode=mode, filter=filters)
        return self.retriever.search(request)

    def _points(
        self, key: Key, identified: Mapping[str, tuple[str, Chunk]], metadata: Mapping[str, Any]
    ) -> list[ChunkPoint]:
        return [
            ChunkPoint(
                id=id_,
                key=key,
                version=Version(1, 1),
                hash=input_hash,
                chunk=chunk,
                dense=self.embedder.embed_query(chunk.input),
                sparse=bm25.encode_document(chunk.input),
                metadata=metadata,
            )
            for id_, (input_hash, chunk) in identified.items()
        ]


def texts(hits: Sequence[Hit]) -> set[str]:
    """What was found, in no order."""
    return {hit.text for hit in hits}
