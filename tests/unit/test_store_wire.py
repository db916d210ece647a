"""Calls and answers of a store as bytes: equal on the other side, and nothing else gets through."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.store import Conditional, Point, Sparse, Store, Stored
from connectors.store_client import RemoteStore
from connectors.store_values import values_of
from connectors.store_wire import (
    CALLS,
    MAX_FRAME_BYTES,
    Frame,
    Unreadable,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
    encode_error,
    read_frame,
)
from models.conditions import All, Condition, DatetimeRange, Either, Match, Not, Range
from syncline.errors import Misconfigured, Rejected, SynclineError, Unavailable

AN_ID = "00000000-0000-0000-0000-000000000001"
A_DATE = datetime(2026, 1, 31, 12, 30, 1, 7, tzinfo=UTC)
NESTED = Either(
    conditions=(
        Not(condition=All(conditions=(Match(path=("a", "b.c"), values=(1, True, "\ud800")),))),
        Range(path=("n",), gte=0.1, lt=5),
        DatetimeRange(path=("d",), gt=A_DATE),
        All(conditions=()),
    )
)


def frame_of(raw: bytes) -> Frame:
    frame = read_frame(io.BytesIO(raw))
    assert frame is not None
    return frame


def crossed(method: str, **arguments: Any) -> Mapping[str, Any]:
    name, found = decode_call(frame_of(encode_call(method, arguments)))
    assert name == method
    return found


def answered(method: str, result: Any) -> Any:
    return decode_answer(method, frame_of(encode_answer(method, result)))


def test_every_method_crosses_but_close() -> None:
    """What the protocol has, the wire and the client have, with the same signatures."""
    methods = dict(inspect.getmembers(Store, inspect.isfunction))
    public = {name for name in methods if not name.startswith("_")}
    assert set(CALLS) == public - {"close"}
    for name in public:
        of_client, of_protocol = (
            inspect.signature(method, eval_str=True)
            for method in (getattr(RemoteStore, name), methods[name])
        )
        assert of_client == of_protocol, name


def test_points_arrive_bit_for_bit() -> None:
    """Payload, both vectors, their absence and their order are as they were sent."""
    dense = np.random.default_rng(1).normal(size=384).astype(np.float32)
    sparse = Sparse([4294967295, 0], [1.5, float(np.float32(0.1))])
    payload = {"a.b": [1, 2.0, None, {"": "ü\ud800"}], "big": 2**63, "nan": float("inf")}
    sent = [
        Point(AN_ID, payload),
        Point(AN_ID, {}, dense, sparse),
        Point(AN_ID, {}, dense[:3]),
        Point(AN_ID, {}, None, Sparse([], [])),
    ]
    points = crossed("upsert", points=sent)["points"]
    assert [(p.id, p.payload, p.sparse) for p in points] == [
        (p.id, p.payload, p.sparse) for p in sent
    ]
    assert isinstance(points[0].payload["a.b"][1], float)
    assert points[0].dense is None
    assert points[1].dense.dtype == np.float32
    np.testing.assert_array_equal(points[1].dense, dense)
    np.testing.assert_array_equal(points[2].dense, dense[:3])


@pytest.mark.parametrize("condition", [NESTED, *NESTED.conditions, None])
def test_conditions_arrive_equal(condition: Condition | None) -> None:
    """Every kind of condition, whatever is in it, is of its own kind on the other side."""
    found = crossed("query", dense=None, sparse=None, condition=condition, limit=3)
    assert found == {"dense": None, "sparse": None, "condition": condition, "limit": 3}
    assert repr(found["condition"]) == repr(condition)


def test_a_condition_is_read_by_a_process_that_has_made_none() -> None:
    """The first condition of a process may come from outside."""
    write = Conditional([Point(AN_ID, {"a": 1})], NESTED)
    program = (
        "import sys; from connectors.store_wire import decode_call, read_frame\n"
        "print(ascii(decode_call(read_frame(sys.stdin.buffer))[1]['writes'][0].only_if))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=encode_call("upsert_conditionally", {"writes": [write]}),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == ascii(NESTED)


def test_answers_arrive_equal() -> None:
    """Each kind of result: points, a page and what follows, indexes, numbers, nothing."""
    dense = np.arange(4, dtype=np.float32)
    stored = [Stored(AN_ID, {"a": [1]}, None, 0.1), Stored(AN_ID, {}, dense)]
    page, following = answered("scroll", (stored, AN_ID))
    assert following == AN_ID
    assert page[0] == stored[0]
    np.testing.assert_array_equal(page[1].dense, dense)
    assert answered("scroll", ([], None)) == ([], None)
    indexes = {("a.b", "c"): "keyword", ("日本",): "float"}
    assert answered("field_indexes", indexes) == indexes
    assert answered("count", 2**40) == 2**40
    assert answered("create", True) is True
    assert answered("flush", None) is None


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("qdrant", "it rests"),
        Misconfigured("a vector does not fit", "set another model"),
        Rejected("store", f"point {AN_ID} is not JSON"),
    ],
)
def test_errors_cross_as_themselves(error: SynclineError) -> None:
    """Class, text and fields of a store's error are those of the original."""
    with pytest.raises(type(error)) as caught:
        decode_answer("count", frame_of(encode_error(error)))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


def test_an_error_may_quote_a_lone_surrogate() -> None:
    """The message about what is no text is a text."""
    with pytest.raises(Rejected, match="point"):
        decode_answer("upsert", frame_of(encode_error(Rejected("store", "point \ud800"))))


def test_what_is_no_json_names_its_point() -> None:
    """A value that cannot be written is the fault of one document, which is named."""
    good, bad = Point(AN_ID[:-1] + "2", {}), Point(AN_ID, {"a": {1, 2}})
    with pytest.raises(Rejected, match=f"point {AN_ID} is not JSON"):
        encode_call("upsert_conditionally", {"writes": [Conditional([good, bad], NESTED)]})


def test_too_large_is_refused_before_it_is_sent() -> None:
    """A call beyond the limit says so, instead of being cut off by the other side."""
    vast = Point(AN_ID, {}, np.zeros(MAX_FRAME_BYTES // 4, np.float32))
    with pytest.raises(Misconfigured, match=f"{MAX_FRAME_BYTES:,}"):
        encode_call("upsert", {"points": [vast]})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[" * 9**5,
        b'["close",{}]',
        b'["__init__",{}]',
        b'["count",7]',
        b'["count",{"limit":1}]',
        b'["count",{"condition":["Path",{}]}]',
        b'["count",{"condition":["All",{}]}]',
        b'["upsert",{"points":[[1]]}]',
        b'["query",{"dense":2}]',
        b'["query",{"dense":-1}]',
    ],
)
def test_what_is_no_call_is_refused(text: bytes) -> None:
    """Unknown methods, arguments and kinds, wrong shapes and missing numbers are `Unreadable`."""
    with pytest.raises(Unreadable):
        decode_call(Frame(text, b"1234"))


@given(st.binary(max_size=60), st.binary(max_size=12))
def test_noise_is_unreadable_and_nothing_worse(text: bytes, numbers: bytes) -> None:
    """Random bytes raise `Unreadable`, as a call and as an answer."""
    with pytest.raises(Unreadable):
        decode_call(Frame(text, numbers))
    with pytest.raises(Unreadable):
        decode_answer("count", Frame(text, numbers))


def test_a_stream_ends_between_frames_or_is_broken() -> None:
    """Its end is None after a whole frame, an error within one, whatever the place."""
    raw = encode_call("upsert", {"points": [Point(AN_ID, {}, np.ones(3, np.float32))]})
    stream = io.BytesIO(raw + raw)
    assert read_frame(stream) == read_frame(stream)
    assert read_frame(stream) is None
    for length in range(1, len(raw)):
        with pytest.raises(EOFError):
            read_frame(io.BytesIO(raw[:length]))


def test_a_length_beyond_the_limit_is_not_read() -> None:
    """No memory is taken for what a stranger announces."""
    with pytest.raises(Unreadable, match="bytes"):
        read_frame(io.BytesIO(b"\xff" * 8))


def test_a_type_without_a_form_is_refused_at_once() -> None:
    """A signature that cannot cross fails when it is read, not when it is called."""
    for hint in (bytes, int | list[str], complex):
        with pytest.raises(TypeError, match="on the wire"):
            values_of(hint)
