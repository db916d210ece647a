"""A store that another process of this machine owns, over its Unix socket (`store_server`).

Each call is one message and one answer, on a connection that it has for itself meanwhile; idle
connections are kept. While the owner is away, or does not answer in time, calls are `Unavailable`;
the next one connects anew. A write that ended so may have been done: as all of a store's writes,
it can be done again.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connectors.store import Conditional, Dense, FieldType, Point, Sparse, Stored
from connectors.store_server import check_path
from connectors.store_wire import (
    Frame,
    Unreadable,
    decode_answer,
    encode_call,
    read_frame,
)
from models.conditions import Condition
from syncline.errors import Misconfigured, Unavailable

TIMEOUT_SECONDS = 60.0
"""Far above any call's time, also where the owner's machine is busy: only the dead are given up."""


class RemoteStore:
    """The `Store` that is served at `path`. Connects at the first call, never before.

    Raises `Misconfigured` if a socket cannot have this path. `close` closes the connections and
    leaves the store to its owner.
    """

    def __init__(self, path: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        check_path(path)
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._idle: list[_Connection] = []
        self._closed = False

    def create(self, dimension: int) -> bool:
        return bool(self._call("create", dimension=dimension))

    def exists(self) -> bool:
        return bool(self._call("exists"))

    def create_field_index(self, path: tuple[str, ...], field_type: FieldType) -> None:
        self._call("create_field_index", path=path, field_type=field_type)

    def field_indexes(self) -> Mapping[tuple[str, ...], FieldType]:
        found: Mapping[tuple[str, ...], FieldType] = self._call("field_indexes")
        return found

    def upsert(self, points: Sequence[Point]) -> None:
        self._call("upsert", points=points)

    def upsert_conditionally(self, writes: Sequence[Conditional]) -> None:
        self._call("upsert_conditionally", writes=writes)

    def set_payload(
        self,
        ids: Sequence[str],
        payload: Mapping[str, Any],
        *,
        only_if: Condition | None = None,
        at: tuple[str, ...] = (),
    ) -> None:
        self._call("set_payload", ids=ids, payload=payload, only_if=only_if, at=at)

    def delete(self, ids: Sequence[str], *, only_if: Condition | None = None) -> None:
        self._call("delete", ids=ids, only_if=only_if)

    def delete_where(self, condition: Condition) -> None:
        self._call("delete_where", condition=condition)

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | Sequence[str] = True, dense: bool = False
    ) -> list[Stored]:
        found: list[Stored] = self._call("retrieve", ids=ids, payload=payload, dense=dense)
        return found

    def scroll(
        self,
        condition: Condition,
        *,
        limit: int,
        after: str | None = None,
        payload: bool | Sequence[str] = True,
        dense: bool = False,
    ) -> tuple[list[Stored], str | None]:
        page: tuple[list[Stored], str | None] = self._call(
            "scroll", condition=condition, limit=limit, after=after, payload=payload, dense=dense
        )
        return page

    def count(self, condition: Condition) -> int:
        return int(self._call("count", condition=condition))

    def query(
        self,
        *,
        dense: Dense | None,
        sparse: Sparse | None,
        condition: Condition | None,
        limit: int,
    ) -> list[Stored]:
        found: list[Stored] = self._call(
            "query", dense=dense, sparse=sparse, condition=condition, limit=limit
        )
        return found

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._closed = True
        self._drop_idle()

    def _call(self, method: str, **arguments: Any) -> Any:
        request = encode_call(method, arguments)
        try:
            return decode_answer(method, self._exchange(request))
        except PermissionError as error:
            raise Misconfigured(
                f"the index's socket {self._path} is not this user's",
                "run all processes as the same user",
            ) from error
        except (OSError, EOFError) as error:
            self._drop_idle()
            raise Unavailable(
                "index", f"its owner does not answer at {self._path} ({error})"
            ) from error
        except Unreadable as error:
            raise Misconfigured(
                f"the index's owner at {self._path} answers what is no answer ({error})",
                "run the same version of Syncline in all processes",
                code="versions_differ",
            ) from error

    def _exchange(self, request: bytes) -> Frame:
        """Send and receive; the connection is kept only after a whole answer."""
        if self._closed:
            raise Misconfigured("the index was closed", "open it again", code="fault")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection(self._path, self._timeout_seconds)
        try:
            answer = connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if self._closed:
            self._drop_idle()
        return answer

    def _drop_idle(self) -> None:
        """Where one connection is dead, so are most likely those that were made before it."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


class _Connection:
    """One connection, for one call at a time. Raises `OSError`, `EOFError` and `Unreadable`."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rb")

    def exchange(self, request: bytes) -> Frame:
        self._socket.sendall(request)
        answer = read_frame(self._stream)
        if answer is None:
            raise EOFError("it hung up")
        return answer

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
