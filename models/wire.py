"""What travels over Pulsar, version 1: one BSON document a message. Pure.

`docs/wire-format.md` says the same for readers in other languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError, InvalidBSON
from bson.timestamp import Timestamp as BsonTimestamp

from models.ids import decode_id
from models.records import Delete, Floor, Key, Record, Timestamp, Upsert, Version
from syncline.errors import Rejected

WIRE_VERSION = 1

_T = TypeVar("_T")


class Reference(Record):
    """An upsert whose document does not travel: the reader takes it from MongoDB, by key."""

    key: Key
    version: Version
    snapshot: bool = False


class Heartbeat(Record):
    """Everything up to `watermark` stands before this message, in each of `partitions`.

    They are numbered within their generation, from 1 behind the floor that began it: a reader that
    misses a number misses messages. One whose watermark has not changed may have the same number.
    """

    generation: int
    beat: int = 1
    watermark: Timestamp | None
    partitions: int


Message = Upsert | Reference | Delete | Floor | Heartbeat

OPERATIONS: Mapping[type[Record], str] = {
    Upsert: "u",
    Reference: "r",
    Delete: "d",
    Floor: "f",
    Heartbeat: "h",
}
"""`op` of each message."""

_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
_LENIENT = _OPTIONS.with_options(uuid_representation=UuidRepresentation.UNSPECIFIED)


def encode(message: Message) -> bytes:
    """The message as BSON.

    Raises `Rejected` with the step `encode` for a document that BSON cannot carry again, such as
    one with broken UTF-8 in a text: it has to travel as a `Reference`.
    """
    head = {"v": WIRE_VERSION, "op": OPERATIONS[type(message)]}
    try:
        return bson.encode({**head, **_body(message)}, codec_options=_OPTIONS)
    except (BSONError, UnicodeError, OverflowError, RecursionError) as error:
        raise Rejected("encode", f"no BSON: {error}"[:500]) from error


def decode(raw: bytes) -> Message:
    """The message in `raw`; fields that are not known are ignored.

    Raises `Rejected` with the step `decode` if it is none, or of another version.
    """
    try:
        body = _read(raw)
        version = _field(body, "v", int)
        if version != WIRE_VERSION:
            raise Rejected("decode", f"the message is of version {version}, not {WIRE_VERSION}")
        return _message(_field(body, "op", str), body)
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Rejected("decode", f"not a message: {error}"[:500]) from error


def as_reference(upsert: Upsert) -> Reference:
    """The same change, without its document."""
    return Reference(key=upsert.key, version=upsert.version, snapshot=upsert.snapshot)


# --- sequence ids ---------------------------------------------------------------------------------

_EPOCH = 1_577_836_800
"""2020-01-01T00:00:00Z. 31 bits of seconds last from there until 2088."""


def sequence_id(version: Version) -> int | None:
    """63 bits of a version, which rise as versions do: seconds since 2020 (31), increment (20), n
    (12). None if one of them does not fit."""
    seconds = version.seconds - _EPOCH
    if not (0 < seconds < 2**31 and version.increment < 2**20 and version.n < 2**12):
        return None
    return seconds << 32 | version.increment << 12 | version.n


# --- fields ---------------------------------------------------------------------------------------


def _body(message: Message) -> dict[str, Any]:
    if isinstance(message, Heartbeat):
        watermark = BsonTimestamp(*message.watermark) if message.watermark else None
        numbers = {"g": message.generation, "b": message.beat, "p": message.partitions}
        return {**numbers, "w": watermark}
    version = message.version
    stamp = {"t": BsonTimestamp(version.seconds, version.increment), "n": version.n}
    if isinstance(message, Floor):
        begun = {"g": message.generation} if message.generation else {}
        return {"c": message.collection, **stamp, **begun}
    body = {"c": message.key.collection, "id": message.key.id, **stamp}
    if not isinstance(message, Delete) and message.snapshot:
        body["s"] = True
    if isinstance(message, Upsert):
        body["doc"] = message.fields
    return body


def _message(operation: str, body: Mapping[str, Any]) -> Message:
    if operation == "h":
        return Heartbeat(
            generation=_field(body, "g", int),
            beat=_field(body, "b", int),
            watermark=None if body.get("w") is None else Timestamp(*_stamp(body, "w")),
            partitions=_field(body, "p", int),
        )
    version = Version(*_stamp(body, "t"), _field(body, "n", int))
    collection = _field(body, "c", str)
    if operation == "f":
        generation = _field(body, "g", int) if "g" in body else 0
        return Floor(collection=collection, version=version, generation=generation)
    key = Key(collection, _field(body, "id", str))
    decode_id(key.id)  # what cannot be read back must not get into the index
    if operation == "d":
        return Delete(key=key, version=version)
    snapshot = body.get("s") is True
    if operation == "r":
        return Reference(key=key, version=version, snapshot=snapshot)
    if operation == "u":
        fields = _field(body, "doc", dict)
        return Upsert(key=key, version=version, snapshot=snapshot, fields=fields)
    raise ValueError(f"op {operation!r} is not known")


def _read(raw: bytes) -> dict[str, Any]:
    try:
        return bson.decode(raw, _OPTIONS)
    except InvalidBSON:
        # A UUID of a wrong length, which MongoDB stores and the codec refuses, stays binary.
        return bson.decode(raw, _LENIENT)


def _stamp(body: Mapping[str, Any], name: str) -> tuple[int, int]:
    stamp = _field(body, name, BsonTimestamp)
    if not stamp.time:
        raise ValueError(f"{name} is at second 0, before any change")
    return stamp.time, stamp.inc


_MOST = {"n": 2**31, "g": 2**53, "b": 2**53, "p": 2**16}
"""Numbers up to here are kept exactly wherever they are stored; there are never so many."""


def _field(body: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    value = body.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    if isinstance(value, int) and not _least(name) <= value <= _MOST.get(name, value):
        raise ValueError(f"{name} is {value}, which is out of range")
    if name == "c" and not _is_collection(str(value)):
        raise ValueError(f"c is {str(value)[:100]!r}, which is no collection's name")
    return value


def _least(name: str) -> int:
    return 1 if name in ("g", "b", "p") else 0


def _is_collection(name: str) -> bool:
    """What MongoDB does not allow cannot come from it."""
    return bool(name) and not name.startswith("$") and "\0" not in name
