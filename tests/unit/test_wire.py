"""The wire format: what is encoded comes back, what is broken is refused, and the page is true."""

from __future__ import annotations

import re
import uuid
import zlib
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import given, settings
from hypothesis import strategies as st

from models import records
from models.ids import key_of, partition_of
from models.records import ALL_COLLECTIONS, Delete, Floor, Key, Record, Upsert, Version
from models.wire import (
    Heartbeat,
    Message,
    as_reference,
    decode,
    encode,
    sequence_id,
)
from syncline.errors import Rejected

PAGE = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text("utf-8")
VERSION = Version(1_700_000_000, 1, 0)
FIELDS: dict[str, Any] = {
    "_id": ObjectId(),
    "texts": ["a", "ä\0b", ""],
    "numbers": [1, Int64(1), 1.5, float("inf"), Decimal128("1.10")],
    "dates": [datetime(2024, 1, 1, tzinfo=timezone.utc), DatetimeMS(2**60)],
    "binary": [b"\0", Binary(b"12", 5), uuid.uuid4()],
    "rest": {"none": None, "true": True, "regex": Regex("a", "i"), "code": Code("x", {"y": 1})},
    "keys": [MinKey(), MaxKey(), Timestamp(4, 5)],
}


def upsert(fields: dict[str, Any], **changes: Any) -> Upsert:
    return Upsert(key=key_of("c", fields["_id"]), version=VERSION, fields=fields, **changes)


MESSAGES: list[Message] = [
    upsert(FIELDS),
    upsert(FIELDS, snapshot=True),
    as_reference(upsert(FIELDS)),
    as_reference(upsert(FIELDS, snapshot=True)),
    Delete(key=key_of("c", {"a": [1]}), version=Version(2**32 - 1, 2**32 - 1, 2**31)),
    Floor(collection=ALL_COLLECTIONS, version=VERSION),
    Floor(collection=ALL_COLLECTIONS, version=VERSION, generation=2**40),
    Heartbeat(generation=1, watermark=None, partitions=8),
    Heartbeat(
        generation=1,
        beat=2**40,
        watermark=records.Timestamp(1_700_000_001, 2),
        partitions=8,
    ),
    Heartbeat(generation=2**40, watermark=records.Timestamp(1_700_000_000, 7), partitions=8),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message: Message) -> None:
    """Every kind of message comes back equal."""
    assert decode(encode(message)) == message


def test_bson_types_survive() -> None:
    """No value changes its type on the way: an int64 stays one, an odd date stays what it is."""
    found = decode(encode(upsert(FIELDS)))
    assert isinstance(found, Upsert)

    def types(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: types(inner) for name, inner in value.items()}
        return [types(inner) for inner in value] if isinstance(value, list) else type(value)

    assert types(found.fields) == types(FIELDS)


def test_uuid_of_a_wrong_length() -> None:
    """What MongoDB stores and the codec refuses stays a binary value."""
    fields = {"_id": 1, "u": Binary(b"123", 4)}
    assert decode(encode(upsert(fields))) == upsert(fields)


@pytest.mark.parametrize("value", ["\udc80", 2**70, Version], ids=["no UTF-8", "too large", "type"])
def test_document_that_bson_cannot_carry(value: Any) -> None:
    """It is refused, not cut; the same change without its document can travel."""
    change = upsert({"_id": 1, "text": value})
    with pytest.raises(Rejected, match="encode"):
        encode(change)
    assert decode(encode(as_reference(change))) == as_reference(change)


def test_id_that_is_no_utf8() -> None:
    """Broken text in an `_id` travels as the escapes that the key has."""
    delete = Delete(key=key_of("c", "a\udc80"), version=VERSION)
    assert decode(encode(delete)) == delete


GOOD = bson.decode(encode(upsert({"_id": 1})))
UUIDS: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(
    uuid_representation=bson.binary.UuidRepresentation.STANDARD
)
BEAT = bson.decode(encode(MESSAGES[-1]))


@pytest.mark.parametrize(
    "change",
    [
        *({"v": v} for v in (0, 2, "1", True, None)),
        *({"op": op} for op in ("", "x", 1, None)),
        *({"t": t} for t in (None, 1, datetime(2026, 11, 24, tzinfo=timezone.utc))),
        *({"n": n} for n in (None, "0", 0.5)),
        *({"c": None}, {"c": 1}, {"id": None}, {"id": 7}, {"doc": None}, {"doc": [1]}),
        *({"op": "h"}, {"op": "h", "g": 1, "p": 1, "w": 5}),
        *({"n": n} for n in (-1, 2**31 + 1, 2**63 - 1)),
        *({"c": c} for c in ("", "a\0b", "$messages")),
        {"t": Timestamp(0, 1)},
        *({**BEAT, "g": g} for g in (0, -1, 2**53 + 1)),
        *({**BEAT, "p": p} for p in (0, -1, 2**16 + 1)),
        {**BEAT, "w": Timestamp(0, 0)},
    ],
    ids=str,
)
def test_message_with_a_wrong_field(change: dict[str, Any]) -> None:
    """A missing or mistyped field, a newer version, an unknown operation: one bad message."""
    with pytest.raises(Rejected) as caught:
        decode(bson.encode({**GOOD, **change}))
    assert caught.value.step == "decode"


def test_unknown_fields_are_ignored() -> None:
    """A later minor addition does not stop a reader of this version."""
    assert decode(bson.encode({**GOOD, "later": 1})) == upsert({"_id": 1})


@given(st.binary(max_size=60) | st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=4)))
def test_broken_bytes(damage: bytes | tuple[int, bytes]) -> None:
    """Whatever arrives is a message or a rejection, never another error."""
    raw = encode(MESSAGES[0])
    if isinstance(damage, bytes):
        raw = damage
    else:
        at, patch = damage
        raw = raw[:at] + patch + raw[at + len(patch) :]
    with suppress(Rejected):
        assert isinstance(decode(raw), Record)


values = st.recursive(
    st.sampled_from([*FIELDS["numbers"], *FIELDS["dates"], *FIELDS["binary"], *FIELDS["keys"]])
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8)
    | st.sampled_from(["u", "r", "d", "f", "h", "7", '{"$oid": "x"}', '{"$date": 9e99}'])
    | st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$ref", "$id", "_id", "$oid"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from(sorted({**GOOD, **BEAT})), values), st.sampled_from("urdfhx")
)
def test_any_bson(change: dict[str, Any], operation: str) -> None:
    """Whatever its fields hold, a document is a message that is in range, or a rejection."""
    try:
        raw = bson.encode({**GOOD, **BEAT, "op": operation, **change}, codec_options=UUIDS)
    except (bson.errors.BSONError, OverflowError):  # none, so it never arrives
        return
    with suppress(Rejected):
        message = decode(raw)
        assert decode(encode(message)) == message


versions = st.builds(
    Version,
    st.integers(1_577_836_801, 1_577_836_800 + 2**31 - 1),
    st.integers(0, 2**20 - 1),
    st.integers(0, 2**12 - 1),
)


@given(versions, versions)
def test_sequence_ids_rise_as_versions_do(one: Version, other: Version) -> None:
    """Their order is the versions' order, and they fit into 63 bits."""
    ids = sequence_id(one), sequence_id(other)
    assert ids[0] is not None and ids[1] is not None
    assert (ids[0] < ids[1]) == (one < other) and (ids[0] == ids[1]) == (one == other)
    assert 0 < ids[0] < 2**63


@pytest.mark.parametrize(
    "version",
    [
        Version(1_577_836_800, 0),
        Version(1_577_836_800 + 2**31, 0),
        Version(1_700_000_000, 2**20),
        Version(1_700_000_000, 0, 2**12),
    ],
)
def test_version_that_does_not_fit(version: Version) -> None:
    """It has no sequence id, rather than a wrong one."""
    assert sequence_id(version) is None


def example() -> str:
    return PAGE[PAGE.index("## An example") :]


def test_example_of_the_page() -> None:
    """The bytes, the partition and the sequence id on the page are what the code makes."""
    lines = re.findall(r"^ {4,6}((?:[0-9a-f]{2}(?: {1,2}|$))+)", example(), re.MULTILINE)
    change = upsert({"_id": 7, "a": "x"})
    assert bytes.fromhex("".join(lines)) == encode(change)
    assert f"of 8 partitions it is in partition {partition_of(change.key, 8)}" in example()
    assert f"CRC-32 is {zlib.crc32(b'c/7')}" in example()
    assert f"id\nis {sequence_id(change.version)}." in example()


class Foreign:
    """A reader as one would write it from the page, with a BSON library and nothing of ours."""

    def __init__(self, raw: bytes) -> None:
        body = bson.decode(raw)
        assert body["v"] == 1
        self.op = body["op"]
        self.key = f"{body['c']}/{body['id']}" if "id" in body else None
        self.version = (body["t"].time, body["t"].inc, body["n"]) if "t" in body else None
        self.body = body

    def partition(self, of: int) -> int:
        assert self.key is not None
        return zlib.crc32(self.key.encode()) % of


def test_a_foreign_reader_sees_the_same() -> None:
    """Operation, key, version, partition, document and watermark can be had from the page alone."""
    change = upsert({"_id": "ä", "a": [1, None]})
    read = Foreign(encode(change))
    assert (read.op, read.version) == ("u", tuple(VERSION))
    assert read.key == 'c/"ä"' and read.partition(7) == partition_of(change.key, 7)
    assert read.body["doc"] == change.fields and "s" not in read.body
    beat = Foreign(encode(MESSAGES[-1])).body
    assert (beat["g"], beat["w"], beat["p"]) == (2**40, Timestamp(1_700_000_000, 7), 8)


def test_a_foreign_writer_is_understood() -> None:
    """What another language writes, with int64 for every integer, is a message of ours."""
    raw = bson.encode(
        {
            "v": Int64(1),
            "op": "d",
            "c": "c",
            "id": "7",
            "t": Timestamp(1_700_000_000, 1),
            "n": Int64(0),
        }
    )
    assert decode(raw) == Delete(key=Key("c", "7"), version=VERSION)


def test_the_page_names_every_field() -> None:
    """A field or an operation that is written is in the page's tables."""
    for message in MESSAGES:
        body = RawBSONDocument(encode(message))
        assert f"`{body['op']}`" in PAGE
        for name in body:
            assert f"| `{name}` |" in PAGE, name
