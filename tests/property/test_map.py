"""Mapping is total: any BSON document is mapped or rejected, never anything else."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import bson
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ids import key_of
from models.records import Upsert, Version
from syncline.errors import Rejected
from syncline.rules import MappingRule
from transforms.map import content_digest, map_document, metadata_digest

INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.sampled_from(["_id", "title", "Name", "text", "content", "BODY", "a", "b", "a.b", "$c"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    INT64,
    INT64.map(Int64),
    st.floats(),
    st.text(),
    st.sampled_from(["<p>a</p>", "# a\n\nb", "{a}", "%PDF-"]),
    st.binary(),
    st.tuples(st.binary(), st.integers(0, 9)).filter(lambda t: t[1] != 2).map(lambda t: Binary(*t)),
    st.datetimes(min_value=datetime(1, 1, 1)),
    INT64.map(DatetimeMS),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.sampled_from(["NaN", "sNaN", "-Infinity", "1E+6144", "0", "1.5"]).map(Decimal128),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([MinKey(), MaxKey(), Code("x"), Code("x", {"y": 1}), Regex("a", "i")]),
    st.builds(bson.DBRef, st.just("c"), st.integers(0, 9)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
RULES = st.sampled_from(
    [
        MappingRule(),
        MappingRule(title="a", text=("a.b", "text"), metadata=["a", "b", "a.b"]),
        MappingRule(title="{a}", text="{a}: {title}", content_type="html", max_bytes=50),
        MappingRule(content_type={"field": "a"}, include={"a": [1, "a", True]}),
        MappingRule(include={"a": {"gte": "2000-01-01"}, "b": {"lt": 3}}),
    ]
)
AS_READ = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_AUTO)


@settings(max_examples=400, deadline=None)
@given(fields=st.dictionaries(NAMES, VALUES, max_size=6), rule=RULES)
def test_any_document_is_mapped_or_rejected(fields: dict[str, Any], rule: MappingRule) -> None:
    """Whatever BSON holds, mapping gives JSON metadata and digests, or says why not."""
    read = bson.decode(bson.encode(fields), AS_READ)
    change = Upsert(key=key_of("c", 1), version=Version(1, 1), fields=read)
    try:
        document = map_document(change, rule)
    except Rejected:
        return
    if document is not None:
        assert json.loads(json.dumps(document.metadata, allow_nan=False)) == document.metadata
        assert "_id" not in document.metadata or rule.metadata is not None
        assert all(part.content.strip() for part in document.parts)
        assert content_digest(document)
        assert metadata_digest(document)
