"""Reading documents for a comparison: every collection in `_id` order, or some documents by `_id`.

Documents are decoded and projected exactly as the flow sees them. Nothing is written, no change
stream is opened. One reader per comparison; not for use by several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp as BsonTimestamp

from connectors.mongo import (
    Client,
    Fields,
    MongoScope,
    cluster_time,
    database,
    decode,
    list_collections,
    translated,
)
from models.ids import encode_id
from models.records import Timestamp
from syncline.errors import Unavailable

BATCH_DOCUMENTS = 500
"""Documents at once; the server ends a batch earlier at 16 MB, which bounds the memory."""
LOOKUP_IDS = 100
"""`_id`s in one query: enough to hide the round trip, and SecantusDB's `$in` takes time that grows
with the square of its length."""

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


class DocumentReader(Protocol):
    """What a comparison needs of the database. All raise `Unavailable` while it is away."""

    def cluster_time(self) -> Timestamp:
        """A time that everything read from now on is at least as new as."""

    def list_collections(self) -> list[str]:
        """The collections in scope that exist now."""

    def estimate(self, collection: str) -> int:
        """About how many documents there are."""

    def read(self, collection: str) -> Iterator[list[Fields]]:
        """All documents in `_id` order, in batches that fit in memory."""

    def find_many(self, collection: str, ids: Sequence[Any]) -> Iterator[list[Fields]]:
        """Those of the documents that exist, in batches; none for a collection out of scope."""

    def find_existing(self, collection: str, ids: Sequence[Any]) -> list[Any]:
        """The `_id`s among `ids` that exist; none for a collection out of scope."""


class MongoReader:
    """The `DocumentReader` of a MongoDB database."""

    def __init__(self, client: Client, scope: MongoScope) -> None:
        self._client = client
        self._scope = scope
        self._database = database(client, scope.database)
        self._noted: Timestamp | None = None

    def cluster_time(self) -> Timestamp:
        """See `DocumentReader`: the time that a majority has committed."""
        self._noted = cluster_time(self._client, self._scope)
        return self._noted

    def list_collections(self) -> list[str]:
        """See `DocumentReader`."""
        return list_collections(self._client, self._scope)

    def estimate(self, collection: str) -> int:
        """See `DocumentReader`: from the collection's metadata."""
        with translated():
            return self._database[collection].estimated_document_count()

    def read(self, collection: str) -> Iterator[list[Fields]]:
        """See `DocumentReader`: one cursor, opened again where the server dropped it."""
        wanted: Fields = {}
        projection = self._scope.projection()
        while True:
            has_moved = False
            try:
                for batch in self._find(collection, wanted, projection, sort=[("_id", 1)]):
                    if batch and self._can_ask_for(batch[-1]["_id"]):
                        has_moved, wanted = True, _behind(batch[-1]["_id"])
                    yield batch
                return
            except Unavailable:
                if not has_moved:
                    raise

    def find_many(self, collection: str, ids: Sequence[Any]) -> Iterator[list[Fields]]:
        """See `DocumentReader`."""
        return self._look_up(collection, ids, self._scope.projection())

    def find_existing(self, collection: str, ids: Sequence[Any]) -> list[Any]:
        """See `DocumentReader`."""
        found = self._look_up(collection, ids, {"_id": 1})
        return [document["_id"] for batch in found for document in batch]

    def _look_up(
        self, collection: str, ids: Sequence[Any], projection: Mapping[str, Any] | None
    ) -> Iterator[list[Fields]]:
        if not self._scope.includes(collection):
            return
        askable = [id_ for id_ in ids if self._can_ask_for(id_)]
        for start in range(0, len(askable), LOOKUP_IDS):
            wanted = {"_id": {"$in": askable[start : start + LOOKUP_IDS]}}
            yield from self._find(collection, wanted, projection)
        if len(askable) < len(ids):
            others = {encode_id(id_) for id_ in ids if not self._can_ask_for(id_)}
            for batch in self.read(collection):
                yield [fields for fields in batch if encode_id(fields["_id"]) in others]

    def _find(
        self,
        collection: str,
        wanted: Mapping[str, Any],
        projection: Mapping[str, Any] | None,
        **options: Any,
    ) -> Iterator[list[Fields]]:
        source: Any = self._database[collection]
        with translated(), self._client.start_session(causal_consistency=True) as session:
            if self._noted is not None:
                # A server that has just become primary must not answer from before that time.
                session.advance_operation_time(BsonTimestamp(*self._noted))
            with source.find_raw_batches(
                wanted, projection, batch_size=BATCH_DOCUMENTS, session=session, **options
            ) as batches:
                for batch in batches:
                    documents = bson.decode_all(batch, _RAW)
                    yield [decode(bytes(raw.raw), source.codec_options) for raw in documents]

    def _can_ask_for(self, bson_id: Any) -> bool:
        """Whether the driver can send it: broken UTF-8 can be read, but not asked for."""
        try:
            bson.encode({"_id": bson_id}, codec_options=self._database.codec_options)
        except UnicodeEncodeError:
            return False
        return True


def _behind(bson_id: Any) -> Fields:
    """Documents after this one in `_id` order, of every BSON type (a plain `$gt` keeps to one)."""
    return {"$expr": {"$gt": ["$_id", {"$literal": bson_id}]}}
