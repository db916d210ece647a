"""Cluster times: in resume tokens, below one another, counted within."""

from __future__ import annotations

import bson
import pytest
from bson.timestamp import Timestamp as BsonTimestamp
from hypothesis import given
from hypothesis import strategies as st

from connectors.mongo import just_below, token_time
from connectors.mongo_events import version_of
from models.records import Timestamp, Version

U32 = st.integers(min_value=0, max_value=2**32 - 1)


@pytest.mark.parametrize(
    ("token", "time"),
    [
        # A high-water mark and an event, as MongoDB writes them.
        ("8263B3D1A5000000012B0229296E04", Timestamp(0x63B3D1A5, 1)),
        (
            "82645F2A30000000022B022C0100296E5A1004A1B2C3D4E5F60718293A4B5C6D7E8F90"
            "46645F69640064645F2A300102030405060708000004",
            Timestamp(0x645F2A30, 2),
        ),
        (bson.encode({"s": 1, "t": BsonTimestamp(5, 6), "n": "a"}).hex(), Timestamp(5, 6)),
        ("", None),
        ("82", None),
        ("no hex", None),
        ("ff" * 20, None),
        (bson.encode({"t": 5}).hex(), None),
        (7, None),
    ],
)
def test_token_time(token: object, time: Timestamp | None) -> None:
    """Both known formats are decoded, and anything else is None instead of an error."""
    assert token_time({"_data": token}) == time


def test_token_without_data() -> None:
    """A token of another shape is not understood, which is no error."""
    assert token_time({"something": "else"}) is None


@given(st.tuples(st.integers(1, 2**32 - 1), U32))
def test_just_below(parts: tuple[int, int]) -> None:
    """The time before is smaller, also where the increment is 0, and there is none between."""
    time = Timestamp(*parts)
    below = just_below(time)
    assert below < time
    assert below.seconds * 2**32 + below.increment + 1 == time.seconds * 2**32 + time.increment


def test_events_of_one_time_are_counted() -> None:
    """n counts within a cluster time, goes on after a restart, and begins anew with the next."""
    first = {"clusterTime": BsonTimestamp(5, 1)}
    assert version_of(first, None) == Version(5, 1, 0)
    assert version_of(first, Version(5, 1, 6)) == Version(5, 1, 7)
    assert version_of(first, Version(5, 0, 6)) == Version(5, 1, 0)
