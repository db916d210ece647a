"""The calls of `Store` and their answers as bytes, between processes of one machine. Pure.

A frame is two u32, then a JSON text, padded to a multiple of 4, then raw numbers: float32 of
dense vectors, u32 and float32 of sparse ones, in the order in which the text mentions them. All
is little-endian. The two u32 are the lengths of text and numbers in bytes. A call is
`[method, {argument: value}]`; an answer is `["done", value]` or `[error, [its fields]]`.

How a value is written follows from its type in the protocol's signatures, so a method that
changes there changes here. What a store refuses is for the store to refuse: NaN and lone
surrogates cross, and come back as its `Rejected`.
"""

from __future__ import annotations

import inspect
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, TypeVar, get_type_hints

from pydantic_core import from_json, to_json

from connectors.store import Point, Store
from connectors.store_values import Numbers, Reading, Values, values_of
from syncline.errors import Misconfigured, Rejected, SynclineError, Unavailable

MAX_FRAME_BYTES = 256 * 2**20
"""Far above any call of ours (a page of 1,000 points is some MB), far below a machine's memory."""

_T = TypeVar("_T")
_PREFIX = struct.Struct("<II")
_DONE = "done"
_ERRORS: Mapping[type[SynclineError], tuple[str, ...]] = {
    Unavailable: ("service", "reason"),
    Misconfigured: ("problem", "remedy", "code"),
    Rejected: ("step", "reason"),
}
_NOT_SERVED = frozenset({"close"})
"""Not callable from outside: the store is its owner's to close."""


class Unreadable(Exception):
    """A frame that is no call or no answer: the other side is not of this version."""


class Frame(NamedTuple):
    """One message, as received."""

    text: bytes
    numbers: bytes


class Signature(NamedTuple):
    """How the arguments and the result of one method are written."""

    arguments: Mapping[str, Values]
    result: Values


def _signature(method: Callable[..., Any]) -> Signature:
    hints = get_type_hints(method)
    result = values_of(hints.pop("return"))
    return Signature({name: values_of(hint) for name, hint in hints.items()}, result)


CALLS: Mapping[str, Signature] = {
    name: _signature(method)
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if not name.startswith("_") and name not in _NOT_SERVED
}
"""Every call that may cross, by method name."""


def encode_call(method: str, arguments: Mapping[str, Any]) -> bytes:
    """The frame of a call. Raises `Rejected` naming the point whose payload is no JSON, and
    `Misconfigured` where it is too large."""
    numbers: Numbers = []
    known = CALLS[method].arguments
    given = {name: known[name].encode(value, numbers) for name, value in arguments.items()}
    try:
        # The slower encoder, but it is as strict as a store, and its ASCII lets surrogates cross.
        text = json.dumps([method, given], separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        named = next(_no_json(arguments.values()), "a value")
        raise Rejected("store", f"{named} is not JSON: {error}") from error
    return _frame(text, numbers)


def decode_call(frame: Frame) -> tuple[str, dict[str, Any]]:
    """Method and arguments of a call. Raises `Unreadable`, also for a method that is not known."""

    def read(reading: Reading) -> tuple[str, dict[str, Any]]:
        method, given = json.loads(frame.text)
        known = CALLS[method].arguments
        return method, {name: known[name].decode(value, reading) for name, value in given.items()}

    return _read(frame, read)


def encode_answer(method: str, result: Any) -> bytes:
    """The frame that brings a result. Raises `Misconfigured` where it is too large."""
    numbers: Numbers = []
    return _frame(to_json([_DONE, CALLS[method].result.encode(result, numbers)]), numbers)


def encode_error(error: SynclineError) -> bytes:
    """The frame that brings an error: of the three kinds that a store raises, with its fields."""
    kind = next(kind for kind in _ERRORS if isinstance(error, kind))
    fields = [getattr(error, field) for field in _ERRORS[kind]]
    return _frame(to_json([kind.__name__, [_valid(field) for field in fields]]), [])


def decode_answer(method: str, frame: Frame) -> Any:
    """The result of a call. Raises the error that it brings, or `Unreadable`."""

    def read(reading: Reading) -> tuple[Any, SynclineError | None]:
        outcome, value = from_json(frame.text)
        if outcome == _DONE:
            return CALLS[method].result.decode(value, reading), None
        kinds = {kind.__name__: kind for kind in _ERRORS}
        return None, kinds[outcome](*value)

    result, error = _read(frame, read)
    if error is not None:
        raise error
    return result


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next frame of a buffered stream, None at its end.

    Raises `EOFError` where it ends within a frame, and `Unreadable` for a length beyond
    `MAX_FRAME_BYTES`: nothing after it can be understood.
    """
    prefix = stream.read(_PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise EOFError("it ended within a message")
    sizes = _PREFIX.unpack(prefix)
    if sum(sizes) > MAX_FRAME_BYTES:
        raise Unreadable(f"a message of {sum(sizes):,} bytes")
    frame = Frame(*(stream.read(size) for size in sizes))
    if (len(frame.text), len(frame.numbers)) != sizes:
        raise EOFError("it ended within a message")
    return frame


def _frame(text: bytes, numbers: Numbers) -> bytes:
    text += b" " * (-len(text) % 4)
    raw = b"".join(numbers)
    if len(text) + len(raw) > MAX_FRAME_BYTES:
        raise Misconfigured(
            f"a message of {len(text) + len(raw):,} bytes to or from the shared index; at most"
            f" {MAX_FRAME_BYTES:,} cross",
            "set qdrant.url to a Qdrant server",
        )
    return b"".join((_PREFIX.pack(len(text), len(raw)), text, raw))


def _read(frame: Frame, read: Callable[[Reading], _T]) -> _T:
    try:
        return read(Reading(frame.numbers))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}"[:300]) from error


def _valid(text: str) -> str:
    """A text about a lone surrogate may quote it."""
    return text.encode("utf-8", "replace").decode()


def _no_json(value: Any) -> Iterator[str]:
    """The points within `value` whose payload is no JSON."""
    if isinstance(value, Point):
        try:
            json.dumps(dict(value.payload))
        except (TypeError, ValueError, RecursionError):
            yield f"point {value.id}"
    elif not isinstance(value, (str, bytes, Mapping)) and hasattr(value, "__iter__"):
        for item in value:
            yield from _no_json(item)
