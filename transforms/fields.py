"""Finding values in a MongoDB document by path and template, and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Formatter
from typing import Any

from syncline.errors import Rejected
from syncline.rules import template_fields
from transforms.values import scalar


def look_up(value: Any, path: str) -> Any:
    """What the dotted `path` leads to, None if nothing; a list is entered item by item."""
    if isinstance(value, (list, tuple)):
        found = [item for item in (look_up(entry, path) for entry in value) if item is not None]
        return found or None
    if not isinstance(value, Mapping):
        return None
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    return look_up(value.get(head), rest) if dot else None


def without(fields: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """`fields` less what `path` leads to through objects."""
    if path in fields:
        return {name: value for name, value in fields.items() if name != path}
    head, _, rest = path.partition(".")
    inner = fields.get(head)
    return {**fields, head: without(inner, rest)} if isinstance(inner, Mapping) else fields


def place(fields: dict[str, Any], path: str, value: Any) -> None:
    """Put `value` where the dotted `path` leads, making objects on the way."""
    head, dot, rest = path.partition(".")
    if not dot:
        fields[head] = value
        return
    inner = fields.get(head)
    if not isinstance(inner, dict):
        inner = fields[head] = {}
    place(inner, rest, value)


def fill(template: str, fields: Mapping[str, Any]) -> str:
    """The template with the fields' values in it; empty if not one of them has any."""
    values = {path: as_text(look_up(fields, path), path) for path in template_fields(template)}
    if not any(values.values()):
        return ""
    pieces = Formatter().parse(template)
    return "".join(literal + (values[path] if path else "") for literal, path, _, _ in pieces)


def as_text(value: Any, path: str) -> str:
    """A scalar as text, a list of scalars with commas between, nothing for null.

    Raises `Rejected` for anything else.
    """
    if isinstance(value, (list, tuple)):
        return ", ".join(text for text in (as_text(item, path) for item in value) if text)
    if value is None:
        return ""
    known = scalar(value)
    if known is None:
        raise wrong_type(path, value, "text, a number, a date or a list of these")
    return known if isinstance(known, str) else json.dumps(known)


def wrong_type(field: str, value: Any, expected: str) -> Rejected:
    """The rejection of a value of a wrong type."""
    return Rejected(
        "map",
        f'field "{field}" holds {described(value)}; expected {expected}: '
        "correct the document, or name another field in the mapping of its collection",
    )


def described(value: Any) -> str:
    """A value's type and, shortened, the value."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return f"an object of {len(value):,} fields"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value):,}"
    shown = str(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
