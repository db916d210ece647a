"""BSON values as JSON values that a payload can hold and a filter can find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bson import Decimal128, ObjectId
from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidBSON
from bson.timestamp import Timestamp

from models.records import Scalar

MAX_DEPTH = 8
"""Objects nested deeper than this are left out."""
MAX_ITEMS = 256
"""Lists longer than this are left out where nobody asked for them: embeddings, mostly."""
MAX_CHARACTERS = 4_096
"""Strings longer than this are left out where nobody asked for them: they are no filter values."""


def scalar(value: Any) -> Scalar | None:
    """The JSON scalar for a BSON value, or None where there is none.

    Dates become RFC 3339 in UTC with `Z`, ObjectIds hex digits, UUIDs their usual text, decimals
    floats. Null, non-finite numbers, dates outside the years 1 to 9999, binary data, regular
    expressions and the like have no JSON scalar.
    """
    match value:
        case bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value) if -(2**63) <= value < 2**63 else None
        case float():
            return value if math.isfinite(value) else None
        case datetime() | DatetimeMS() | Timestamp():
            return _date(value)
        case ObjectId() | UUID():
            return str(value)
        case Decimal128():
            return _decimal(value)
        case Binary(subtype=subtype) if subtype == UUID_SUBTYPE and len(value) == 16:
            return str(value.as_uuid())
    return None


def json_value(value: Any, *, bounded: bool = False, depth: int = MAX_DEPTH) -> Any:
    """Scalars, lists of scalars and objects of these; None where nothing of it is left.

    Items of a list that are no scalars are left out, as are null fields. `bounded` leaves out
    strings over `MAX_CHARACTERS` and lists over `MAX_ITEMS` whole: nothing is ever cut.
    """
    if isinstance(value, Mapping):
        return json_object(value, bounded=bounded, depth=depth - 1) or None if depth > 0 else None
    if isinstance(value, (list, tuple)):
        if bounded and len(value) > MAX_ITEMS:
            return None
        items = [item for item in map(scalar, value) if item is not None]
        if bounded and any(isinstance(i, str) and len(i) > MAX_CHARACTERS for i in items):
            return None
        return items or (None if value else [])
    item = scalar(value)
    if bounded and isinstance(item, str) and len(item) > MAX_CHARACTERS:
        return None
    return item


def json_object(
    fields: Mapping[str, Any], *, bounded: bool = False, depth: int = MAX_DEPTH
) -> dict[str, Any]:
    """`json_value` of each field, without those of which nothing is left."""
    values = ((name, json_value(v, bounded=bounded, depth=depth)) for name, v in fields.items())
    return {str(name): value for name, value in values if value is not None}


def _date(value: datetime | DatetimeMS | Timestamp) -> str | None:
    try:
        moment = value if isinstance(value, datetime) else value.as_datetime()
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
    except (InvalidBSON, OverflowError, ValueError):
        return None
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _decimal(value: Decimal128) -> float | None:
    decimal = value.to_decimal()
    number = float(decimal) if decimal.is_finite() else math.inf
    return number if math.isfinite(number) else None
