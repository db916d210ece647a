"""The filter of a search request as a condition on chunks. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from models.conditions import All, Path
from models.filters import InvalidFilter, parse_filter
from models.ids import decode_id, encode_id
from models.points import filter_path, of_kind

MOST_VALUES = 1_000
"""Each value is compared with every chunk that has the field."""
# What Qdrant has no notation for, and what UTF-8 cannot carry, is in no name.
_NAME = re.compile(r'"([^"\\\ud800-\udfff]+)"|([^."\\\ud800-\udfff]+)')
_FIELD = re.compile(rf"(?:{_NAME.pattern})(?:\.(?:{_NAME.pattern}))*")


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
    """A dot leads into an object; a name in quotes may contain one, and is always metadata."""
    if not _FIELD.fullmatch(field):
        shown = field.encode("utf-8", "backslashreplace").decode()
        problem = 'is not a field name such as tag, author.name or meta."file.name"'
        raise InvalidFilter(shown, problem)
    if '"' in field:
        return ("metadata", *(quoted or bare for quoted, bare in _NAME.findall(field)))
    return filter_path(field)
