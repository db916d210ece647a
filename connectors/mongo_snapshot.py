"""Reads whole collections in `_id` order, in a thread, as fast as they are taken.

One cursor a collection, one collection after another. A cursor that the server drops, because it
was idle for too long or the server is gone, is opened again after the last `_id` read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp as BsonTimestamp

from connectors.inbox import Inbox
from connectors.mongo import SERVICE, Client, MongoScope, database, decode, raw_options, translated
from models.ids import decode_id, key_of
from models.records import Cursor, Upsert
from syncline.control import Control
from syncline.errors import Stopped
from syncline.retry import keep_trying

BUFFER_BYTES = 32_000_000
"""Two of the largest documents; some thousand usual ones, more than a page of any size."""
BATCH_DOCUMENTS = 500
"""A network round trip a batch; the server also ends a batch at 16 MB."""


After = tuple[Any] | None
"""The `_id` after which to go on (wrapped: null is an `_id` too); None: from the start."""


@dataclass(frozen=True, slots=True)
class Found:
    """One document of the snapshot that was begun with `cursor`."""

    cursor: Cursor
    change: Upsert
    after: After


@dataclass(frozen=True, slots=True)
class Finished:
    """All documents of the snapshot that was begun with `cursor` have been read."""

    cursor: Cursor


class SnapshotReader:
    """Puts `Found` and `Finished` into `inbox`, for the cursors it is given.

    What a person must know of goes to `control.fail`.
    """

    def __init__(self, client: Client, scope: MongoScope, control: Control) -> None:
        self.inbox: Inbox[Found | Finished] = Inbox(BUFFER_BYTES)
        self._client = client
        self._scope = scope
        self._control = control
        self._cursors: list[Cursor] = []
        self._finished: list[Cursor] = []
        self._changed = threading.Condition()
        self._closed = False
        self.thread = threading.Thread(target=self._run, name="mongo-snapshot", daemon=True)

    def read(self, cursors: Sequence[Cursor]) -> None:
        """Read exactly these from now on; one that is being read goes on where it is."""
        with self._changed:
            self._cursors = [cursor for cursor in cursors if cursor not in self._finished]
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread soon."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.inbox.close()

    def _run(self) -> None:
        try:
            while (cursor := self._next()) is not None:
                self._read(cursor)
        except Stopped:
            pass
        except BaseException as error:
            # After a stop nothing depends on this thread, and its client may be closed already.
            if not self._control.stop_requested:
                self._control.fail(error)

    def _next(self) -> Cursor | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._cursors)
            return None if self._closed else self._cursors[0]

    def _is_wanted(self, cursor: Cursor) -> bool:
        return not self._closed and not self._control.stop_requested and cursor in self._cursors

    def _read(self, cursor: Cursor) -> None:
        reading = _Reading(self._client, self._scope, cursor)
        total = keep_trying(reading.estimate, self._control)
        if self._is_wanted(cursor):
            self._control.estimate_backfill(cursor.collection, total)
        keep_trying(lambda: self._read_on(reading), self._control)
        with self._changed:
            if self._control.stop_requested:
                raise Stopped("stopped within a snapshot")
            if cursor in self._cursors:
                self._cursors.remove(cursor)
                # Its end may still wait in the inbox when the source names its cursors anew.
                self._finished.append(cursor)
                finished = Finished(cursor)
            else:
                return
        self.inbox.put(finished)

    def _read_on(self, reading: _Reading) -> None:
        for found, size in reading.documents():
            self._control.available(SERVICE)
            if not self._is_wanted(reading.cursor) or not self.inbox.put(found, size):
                return


class _Reading:
    """One collection from its cursor on. `documents` may be called again after an error."""

    def __init__(self, client: Client, scope: MongoScope, cursor: Cursor) -> None:
        self.cursor = cursor
        self._client = client
        self._projection = scope.projection()
        self._collection = database(client, scope.database)[cursor.collection]
        self._after: After = None if cursor.last_id is None else (decode_id(cursor.last_id),)

    def estimate(self) -> int:
        with translated():
            return self._collection.estimated_document_count()

    def documents(self) -> Iterator[tuple[Found, int]]:
        """Each with its bytes of BSON. Raises `Unavailable` when the cursor is gone."""
        with translated():
            for raw in self._find():
                fields = decode(bytes(raw.raw), self._collection.codec_options)
                if self._can_be_sent(fields["_id"]):
                    self._after = (fields["_id"],)
                key = key_of(self.cursor.collection, fields["_id"])
                change = Upsert(key=key, version=self.cursor.version, fields=fields, snapshot=True)
                yield Found(self.cursor, change, self._after), len(raw.raw)

    def _find(self) -> Iterator[RawBSONDocument]:
        # `$expr` compares across BSON types, which a plain `$gt` does not, and uses the index.
        rest = {"$expr": {"$gt": ["$_id", {"$literal": self._after[0]}]}} if self._after else {}
        with self._client.start_session(causal_consistency=True) as session:
            # A server that has just become primary must not answer from before our version.
            version = self.cursor.version
            session.advance_operation_time(BsonTimestamp(version.seconds, version.increment))
            with self._collection.with_options(
                codec_options=raw_options(self._collection.codec_options)
            ).find(
                rest,
                self._projection,
                sort=[("_id", 1)],
                batch_size=BATCH_DOCUMENTS,
                session=session,
            ) as found:
                yield from found

    def _can_be_sent(self, bson_id: Any) -> bool:
        """Whether a query may name it: broken UTF-8 can be read, but not written."""
        try:
            bson.encode({"": bson_id}, codec_options=self._collection.codec_options)
        except UnicodeEncodeError:
            return False
        return True
