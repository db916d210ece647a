"""The filter of a search request as a condition on chunks. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from connectors.paths import addressable
from models.conditions import All, Path
from models.filters import InvalidFilter, dotted, parse_filter
from models.ids import decode_id, encode_id
from models.points import filter_path, of_kind

MOST_VALUES = 1_000
"""Each value is compared with every chunk that has the field."""


def search_condition(raw: Mapping[str, Any]) -> All:
    """Chunks that satisfy a request's filter. Raises `InvalidFilter` naming the field."""
    filters = {name: _checked(name, value) for name, value in raw.items()}
    return of_kind("chunk", parse_filter(filters, path_of=_path))


def _checked(field: str, value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_VALUES:
        raise InvalidFilter(field, f"at most {MOST_VALUES:,} values, got {len(value):,}")
    if field != "document_id":
        return value
    return [_shown_id(item) for item in value] if isinstance(value, list) else _shown_id(value)


def _shown_id(value: Any) -> str:
    """An `_id` as hits show it, which is how it is stored: 7 and "7" both mean `7`."""
    if isinstance(value, str):
        return value
    try:
        return encode_id(decode_id(json.dumps(value)))
    except ValueError as error:
        raise InvalidFilter("document_id", "is not an _id as Extended JSON") from error


def _path(field: str) -> Path:
    dotted(field)
    path = filter_path(field)
    if not addressable(path):
        raise InvalidFilter(field, 'a name with " or \\ cannot be filtered by')
    return path
