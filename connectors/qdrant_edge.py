"""Qdrant Edge as a store: Qdrant's own engine in this process, on a directory of this machine.

One writer and any number of reading threads. A write that returned is in the write-ahead log and
survives the death of the process; `flush` makes it survive a power cut. The directory opens in
one process at a time. Search is exact: see docs/decisions/0005-store.md.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from connectors.paths import json_path, parse_json_path
from connectors.qdrant_edge_requests import (
    SCHEMAS,
    among,
    from_record,
    to_config,
    to_filter,
    to_point,
    to_query,
    to_selector,
    to_upsert,
    to_vectors,
)
from connectors.store import Conditional, Dense, FieldType, Point, Sparse, Stored
from models.conditions import Condition
from syncline.errors import Misconfigured, Rejected

_CONFIG = "edge_config.json"


class EdgeStore:
    """The `Store` in `path`; loads what is there, makes nothing before `create`.

    Raises `Misconfigured` if another process has the directory open or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The engine serialises updates itself; this keeps one from meeting `close`.
        self._writing = threading.Lock()
        self._opened: edge.EdgeShard | None = None
        if (path / _CONFIG).exists() or (path / "segments").exists():
            with _translated(path):
                self._opened = edge.EdgeShard.load(str(path))

    def create(self, dimension: int) -> bool:
        with self._writing, _translated(self._path):
            if self._opened is None:
                self._opened = _created(self._path, dimension)
                return True
        self._check_dimension(dimension)
        return False

    def exists(self) -> bool:
        # Not whether there are files: while it is being made, there are, and nothing can be asked.
        return self._opened is not None

    def create_field_index(self, path: tuple[str, ...], field_type: FieldType) -> None:
        self._update(edge.UpdateOperation.create_field_index(json_path(path), SCHEMAS[field_type]))

    def field_indexes(self) -> Mapping[tuple[str, ...], FieldType]:
        with _translated(self._path):
            schema = self._shard.info().payload_schema
        types = {kind: name for name, kind in SCHEMAS.items()}
        return {parse_json_path(text): types[info.data_type] for text, info in schema.items()}

    def upsert(self, points: Sequence[Point]) -> None:
        if points:
            self._update(edge.UpdateOperation.upsert_points([to_point(p) for p in points]))

    def upsert_conditionally(self, writes: Sequence[Conditional]) -> None:
        for write in writes:
            if write.points:
                self._update(to_upsert(write))

    def set_payload(
        self,
        ids: Sequence[str],
        payload: Mapping[str, Any],
        *,
        only_if: Condition | None = None,
        at: tuple[str, ...] = (),
    ) -> None:
        # By filter: by ids, one that is gone fails the operation half way.
        if ids:
            chosen, key = among(ids, only_if), json_path(at) if at else None
            self._update(edge.UpdateOperation.set_payload_by_filter(chosen, dict(payload), key))

    def delete(self, ids: Sequence[str], *, only_if: Condition | None = None) -> None:
        if ids and only_if is None:
            self._update(edge.UpdateOperation.delete_points(list(ids)))
        elif ids:
            self._update(edge.UpdateOperation.delete_points_by_filter(among(ids, only_if)))

    def delete_where(self, condition: Condition) -> None:
        self._update(edge.UpdateOperation.delete_points_by_filter(to_filter(condition)))

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | Sequence[str] = True, dense: bool = False
    ) -> list[Stored]:
        with _translated(self._path):
            records = self._shard.retrieve(list(ids), to_selector(payload), to_vectors(dense))
        return [from_record(record) for record in records]

    def scroll(
        self,
        condition: Condition,
        *,
        limit: int,
        after: str | None = None,
        payload: bool | Sequence[str] = True,
        dense: bool = False,
    ) -> tuple[list[Stored], str | None]:
        request = edge.ScrollRequest(
            offset=after,
            limit=limit,
            filter=to_filter(condition),
            with_payload=to_selector(payload),
            with_vector=to_vectors(dense),
        )
        with _translated(self._path):
            records, following = self._shard.scroll(request)
        page = [from_record(record) for record in records]
        return page, None if following is None else str(following)

    def count(self, condition: Condition) -> int:
        with _translated(self._path):
            return self._shard.count(edge.CountRequest(exact=True, filter=to_filter(condition)))

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
        with _translated(self._path):
            return [from_record(point) for point in self._shard.query(request)]

    def flush(self) -> None:
        with _translated(self._path):
            self._shard.flush()

    def close(self) -> None:
        with self._writing, _translated(self._path):
            shard, self._opened = self._opened, None
            if shard is not None:
                shard.close()

    @property
    def _shard(self) -> edge.EdgeShard:
        if self._opened is None:
            raise Misconfigured(
                f"there is no open index in {self._path}",
                "fill it first: `syncline sync`",
                code="index_missing",
            )
        return self._opened

    def _update(self, operation: edge.UpdateOperation) -> None:
        with self._writing, _translated(self._path):
            self._shard.update(operation)

    def _check_dimension(self, dimension: int) -> None:
        with _translated(self._path):
            config = json.loads((self._path / _CONFIG).read_text("utf-8"))
            found = config["vectors"]["dense"]["size"]
        if found != dimension:
            raise Misconfigured(
                f"the index in {self._path} holds vectors of {found} dimensions, the embedding"
                f" model makes {dimension}",
                "set the model it was built with, or another data directory",
                code="recipe_changed",
            )


def _created(path: Path, dimension: int) -> edge.EdgeShard:
    """Made beside `path` and moved there whole: what a crash leaves half made does not open."""
    made = path.with_name(f".{path.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    edge.EdgeShard.create(str(made), to_config(dimension)).close()
    made.rename(path)
    return edge.EdgeShard.load(str(path))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """The engine has one class of errors, a bare `Exception` with a text: a person must act."""
    try:
        yield
    except (Misconfigured, Rejected, TypeError):
        raise
    except Exception as error:
        raise _misconfigured(path, error) from error


def _misconfigured(path: Path, error: Exception) -> Misconfigured:
    text = str(error)
    if "WouldBlock" in text:
        return Misconfigured(
            f"{path} is in use by another process",
            "stop the other `syncline` on this data directory, or ask it over HTTP",
            code="data_in_use",
        )
    if "Vector dimension error" in text:
        return Misconfigured(
            f"a vector does not fit the index in {path}: {text}",
            "set the model it was built with, or another data directory",
            code="recipe_changed",
        )
    return Misconfigured(
        f"the index in {path} cannot be used: {text}",
        "check free space and permissions; if it is damaged, remove the directory and start"
        " again: the index is rebuilt from the database",
        code="index_unusable",
    )
