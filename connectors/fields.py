"""The payload indexes of metadata: made as fields come, for those that can be filtered by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from connectors.paths import addressable
from connectors.store import FieldType, Store
from models.conditions import Path, parse_date
from models.points import INDEXED_FIELDS

_log = structlog.get_logger(__name__)

MAX_METADATA_INDEXES = 64
"""Payload indexes cost memory and write time for ever; fields beyond are filtered unindexed."""


class MetadataFields:
    """Which fields are indexed, as far as this process knows. Another process's are made twice,
    which is once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Path, FieldType] = {}
        self._full_warned = False

    def read(self) -> None:
        """Take note of what is indexed already."""
        self._known = dict(self._store.field_indexes())

    def index(self, metadata: Mapping[str, Any]) -> None:
        """Index the fields of `metadata` that are not indexed yet."""
        self._index_fields(metadata, ("metadata",))

    def _index_fields(self, value: Mapping[str, Any], path: Path) -> None:
        for name, item in value.items():
            field = (*path, name)
            if isinstance(item, Mapping):
                self._index_fields(item, field)
            # Names that Qdrant has no notation for are stored, and cannot be filtered by.
            elif field not in self._known and addressable(field):
                kind = _field_type(item)
                if kind is not None:
                    self._index_field(field, kind)

    def _index_field(self, field: Path, kind: FieldType) -> None:
        used = len(self._known) - len(INDEXED_FIELDS)
        if used < MAX_METADATA_INDEXES:
            self._store.create_field_index(field, kind)
            self._known[field] = kind
        elif not self._full_warned:
            self._full_warned = True
            _log.warning("metadata_not_indexed", field=".".join(field), limit=MAX_METADATA_INDEXES)


def _field_type(value: Any) -> FieldType | None:
    item = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(item, bool):
        return "bool"
    if isinstance(item, (int, float)):
        return "float"  # a range over an integer index would not find 1.5 in the next document
    if isinstance(item, str):
        return "datetime" if parse_date(item) else "keyword"
    return None
