"""A Qdrant server as a store, through qdrant-client over REST or gRPC; also its local mode.

Every write waits until it is applied, so that what returned can be read. A cluster with replicas
keeps that promise, and evaluates the guards of entries alike everywhere, by two settings:

- *strong* write ordering: all writes of a point pass its shard's permanent leader, so no two
  replicas apply two conditional writes in a different order and keep different winners;
- *majority* reads together with a write consistency factor of a majority: any read sees at least
  one replica that has the write. With one replica neither costs anything.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qdrant_client import QdrantClient
from qdrant_client import models as qdrant

from connectors.paths import json_path, parse_json_path
from connectors.qdrant_errors import translated
from connectors.qdrant_requests import (
    MAX_BATCH_IDS,
    SCHEMAS,
    among,
    batches,
    from_record,
    to_collection,
    to_filter,
    to_point,
    to_query,
    to_selector,
    to_upserts,
)
from connectors.store import Conditional, Dense, FieldType, Point, Sparse, Stored
from models.conditions import Condition
from syncline.errors import Misconfigured, Unavailable

_READS = qdrant.ReadConsistencyType.MAJORITY
_WRITES: Mapping[str, Any] = {"wait": True, "ordering": qdrant.WriteOrdering.STRONG}


def connect(
    url: str,
    *,
    collection: str,
    api_key: str | None = None,
    ca_file: Path | None = None,
    timeout_seconds: float = 10.0,
    grpc: bool = False,
) -> QdrantStore:
    """The store in `collection` on the server at `url`. Sends nothing yet.

    With `ca_file` the server's certificate must be signed by one in it, else by one that this
    machine trusts. `grpc` uses port 6334 for all but the administration of collections. Raises
    `Misconfigured` if `url` is none, or `ca_file` holds no certificate.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(f"qdrant.url = {url!r} is no URL", "write it as http://host:6333")
    client = QdrantClient(
        url=url,
        api_key=api_key,
        timeout=math.ceil(timeout_seconds),
        prefer_grpc=grpc,
        **_trusting(ca_file),
        # It would connect here, and say in words what the first call says as an error.
        check_compatibility=False,
    )
    return QdrantStore(client, collection)


def _trusting(ca_file: Path | None) -> Mapping[str, Any]:
    """The client's options for the certificates in a file, over REST and gRPC."""
    if ca_file is None:
        return {}
    try:
        context = ssl.create_default_context(cafile=ca_file)
        return {"verify": context, "grpc_options": {"root_certificates": ca_file.read_bytes()}}
    except OSError as error:  # ssl's own error is one too
        raise Misconfigured(
            f"qdrant.ca_file = {str(ca_file)!r} cannot be read: {error}",
            "name a PEM file of CA certificates",
        ) from error


class QdrantStore:
    """The `Store` in `collection` on the server of `client`, which this closes.

    `replicas` counts only where `create` makes the collection.
    """

    def __init__(self, client: QdrantClient, collection: str, *, replicas: int = 1) -> None:
        self.client = self._client = client
        self._name = collection
        self._replicas = replicas

    def create(self, dimension: int) -> bool:
        with translated(self._name):
            if self._client.collection_exists(self._name):
                _check(self._client.get_collection(self._name), self._name, dimension)
                return False
            return self._client.create_collection(
                self._name,
                **to_collection(dimension),
                replication_factor=self._replicas,
                write_consistency_factor=self._replicas // 2 + 1,
            )

    def exists(self) -> bool:
        with translated(self._name):
            return self._client.collection_exists(self._name)

    def create_field_index(self, path: tuple[str, ...], field_type: FieldType) -> None:
        with translated(self._name):
            done = self._client.create_payload_index(
                self._name, json_path(path), field_schema=SCHEMAS[field_type], **_WRITES
            )
        _completed(done)

    def field_indexes(self) -> Mapping[tuple[str, ...], FieldType]:
        types = {schema: name for name, schema in SCHEMAS.items()}
        with translated(self._name):
            schema = self._client.get_collection(self._name).payload_schema
        return {parse_json_path(text): types[info.data_type] for text, info in schema.items()}

    def upsert(self, points: Sequence[Point]) -> None:
        for batch in batches(points):
            structs = [to_point(point) for point in batch]
            with translated(self._name):
                done = self._client.upsert(self._name, structs, **_WRITES)
            _completed(done)

    def upsert_conditionally(self, writes: Sequence[Conditional]) -> None:
        for operations in to_upserts(writes):
            with translated(self._name):
                done = self._client.batch_update_points(self._name, operations, **_WRITES)
            _completed(*done)

    def set_payload(
        self,
        ids: Sequence[str],
        payload: Mapping[str, Any],
        *,
        only_if: Condition | None = None,
        at: tuple[str, ...] = (),
    ) -> None:
        key = json_path(at) if at else None
        for some in _sliced(ids):
            # By filter: by ids, one that is gone fails the operation half way.
            chosen = among(some, only_if)
            with translated(self._name):
                done = self._client.set_payload(
                    self._name, dict(payload), chosen, key=key, **_WRITES
                )
            _completed(done)

    def delete(self, ids: Sequence[str], *, only_if: Condition | None = None) -> None:
        for some in _sliced(ids):
            chosen: qdrant.PointsSelector = qdrant.PointIdsList(points=[*some])
            if only_if is not None:
                chosen = qdrant.FilterSelector(filter=among(some, only_if))
            with translated(self._name):
                done = self._client.delete(self._name, chosen, **_WRITES)
            _completed(done)

    def delete_where(self, condition: Condition) -> None:
        chosen = qdrant.FilterSelector(filter=to_filter(condition))
        with translated(self._name):
            done = self._client.delete(self._name, chosen, **_WRITES)
        _completed(done)

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | Sequence[str] = True, dense: bool = False
    ) -> list[Stored]:
        found: list[Stored] = []
        for some in _sliced(ids):
            with translated(self._name):
                records = self._client.retrieve(
                    self._name,
                    some,
                    with_payload=to_selector(payload),
                    with_vectors=["dense"] if dense else False,
                    consistency=_READS,
                )
            found += [from_record(record) for record in records]
        return found

    def scroll(
        self,
        condition: Condition,
        *,
        limit: int,
        after: str | None = None,
        payload: bool | Sequence[str] = True,
        dense: bool = False,
    ) -> tuple[list[Stored], str | None]:
        with translated(self._name):
            records, following = self._client.scroll(
                self._name,
                to_filter(condition),
                limit=limit,
                offset=after,
                with_payload=to_selector(payload),
                with_vectors=["dense"] if dense else False,
                consistency=_READS,
            )
        page = [from_record(record) for record in records]
        return page, None if following is None else str(following)

    def count(self, condition: Condition) -> int:
        with translated(self._name):
            # Asks one replica: the client cannot ask for more here.
            return self._client.count(self._name, to_filter(condition), exact=True).count

    def query(
        self,
        *,
        dense: Dense | None,
        sparse: Sparse | None,
        condition: Condition | None,
        limit: int,
    ) -> list[Stored]:
        request = to_query(dense=dense, sparse=sparse, condition=condition, limit=limit)
        if request is None:
            return []
        with translated(self._name):
            found = self._client.query_points(self._name, **request, consistency=_READS)
        return [from_record(point) for point in found.points]

    def flush(self) -> None:
        """Nothing to do: a server that acknowledged a write has it in its log."""

    def close(self) -> None:
        self._client.close()


def _sliced(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), MAX_BATCH_IDS):
        yield ids[start : start + MAX_BATCH_IDS]


def _completed(*results: qdrant.UpdateResult) -> None:
    """A write that is only queued looks like success, and cannot be read yet."""
    for result in results:
        if result.status != qdrant.UpdateStatus.COMPLETED:
            raise Unavailable("qdrant", f"a write was accepted but not applied: {result.status}")


def _check(found: qdrant.CollectionInfo, name: str, dimension: int) -> None:
    params = found.config.params
    dense = params.vectors.get("dense") if isinstance(params.vectors, dict) else None
    sparse = (params.sparse_vectors or {}).get("bm25")
    if (
        dense is None
        or sparse is None
        or dense.distance != qdrant.Distance.COSINE
        or sparse.modifier != qdrant.Modifier.IDF
    ):
        raise Misconfigured(
            f"the collection {name!r} was not made by Syncline",
            "choose another qdrant.collection, or remove this one",
        )
    if dense.size != dimension:
        raise Misconfigured(
            f"the collection {name!r} holds vectors of {dense.size} dimensions, the embedding"
            f" model makes {dimension}",
            "set the model it was built with, or another qdrant.collection",
            code="recipe_changed",
        )
