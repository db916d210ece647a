"""The change stream of one database, event by event, across restarts of server and network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp as BsonTimestamp
from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import OperationFailure, PyMongoError

from connectors.mongo import (
    Client,
    Fields,
    MongoScope,
    database,
    decode,
    just_below,
    raw_options,
    timestamp,
    token_time,
)
from connectors.mongo_errors import (
    RESULT_TOO_LARGE_CODES,
    UNKNOWN_STAGE_CODES,
    translate,
    translated,
)
from connectors.mongo_events import Happening, Token, interpret, version_of
from connectors.mongo_fragments import Fragments
from models.records import Timestamp, Version
from syncline.control import Control
from syncline.errors import PositionLost, SynclineError
from syncline.retry import keep_trying

_log = structlog.get_logger(__name__)

AWAIT_MILLISECONDS = 100
"""How long the server holds an empty answer. An empty answer is what lets the watermark pass the
last write, so this is its delay; ten polls a second cost the server 1 % of a core."""
HISTORY_SECONDS = 12.0
"""How long the last event is looked for. It stands where the search begins, so this is only for a
shard that is behind: an idle one tells its time every 10 seconds."""
_SPLIT: Fields = {"$changeStreamSplitLargeEvent": {}}


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing more waits on the server. `time`: up to where that is certain, if it can be told."""

    token: Token
    time: Timestamp | None


class _TooLargeError(SynclineError):
    """An event with its document is larger than the server can answer."""


class ChangeStream:
    """Follows one database from a place on; remembers the place.

    One caller at a time. `known` are the collections that a dropDatabase takes with it.
    """

    def __init__(self, client: Client, scope: MongoScope, control: Control) -> None:
        self._client = client
        self._scope = scope
        self._control = control
        self._database = database(client, scope.database)
        self._start = Version(0, 0)
        self._token: Token | None = None
        self._idle_token: Token | None = None
        self._with_documents = True
        self._times_known = True
        self._splits = True
        self._fragments = Fragments()
        self._broke = False
        self.last: Version | None = None
        """Of the last event."""
        self.known: set[str] = set()

    def seek(self, start: Version, token: Token | None, last: Version | None) -> None:
        """Go on after `token`, whose event was `last`; without one from the time `start`."""
        self._start, self._token, self.last = start, token, last
        self._idle_token = None

    def follow(self, receive: Callable[[Happening | Idle], None]) -> None:
        """Hand over what happens until a stop is asked for, or the server ends the stream.

        May be called again, also after an error. Raises `Unavailable` when it breaks, `Stopped`,
        `PositionLost`, or whatever `receive` raises.
        """
        try:
            self._fragments.clear()
            if self._broke:
                keep_trying(self.check_history, self._control)
            self._broke = True
            stream, event = keep_trying(self._open, self._control)
            with stream:
                while not self._control.stop_requested:
                    if event is not None:
                        self._advance(event, receive)
                    elif not self._fragments.pending:
                        self._rest(stream, receive)
                    if not stream.alive or self._is_past_large(event):
                        return
                    event = self._next(stream)
        except _TooLargeError:
            if not self._with_documents:
                raise
            _log.info("event_too_large", action="its document is read by itself")
            self._with_documents = False

    def _is_past_large(self, event: RawBSONDocument | None) -> bool:
        if event is None or self._with_documents:
            return False
        self._with_documents = True
        return True

    def _open(self) -> tuple[DatabaseChangeStream[Any], RawBSONDocument | None]:
        """The stream and its first event: one that fails at once must count as not opened."""
        where: Fields = {"start_after": self._token}
        if self._token is None:
            time = BsonTimestamp(self._start.seconds, self._start.increment)
            where = {"start_at_operation_time": time}
        stream = self._watch(self._with_documents, **where)
        return stream, self._next(stream)

    def _watch(self, with_documents: bool, **where: Any) -> DatabaseChangeStream[Any]:
        pipeline = self._scope.pipeline(documents=with_documents)
        source = self._database.with_options(
            codec_options=raw_options(self._database.codec_options)
        )
        try:
            return source.watch(
                [*pipeline, *([_SPLIT] if self._splits else [])],
                full_document="updateLookup" if with_documents else None,
                max_await_time_ms=AWAIT_MILLISECONDS,
                **where,
            )
        except OperationFailure as error:
            if self._splits and error.code in UNKNOWN_STAGE_CODES:
                # MongoDB before 6.0.9: what is too large comes without its document.
                self._splits = False
                return self._watch(with_documents, **where)
            raise translate(error, resuming="start_after" in where) from error
        except PyMongoError as error:
            raise translate(error, resuming="start_after" in where) from error

    def _next(self, stream: DatabaseChangeStream[Any]) -> RawBSONDocument | None:
        try:
            return stream.try_next()
        except OperationFailure as error:
            if error.code in RESULT_TOO_LARGE_CODES:
                raise _TooLargeError(f"a change event is too large for MongoDB: {error}") from error
            raise translate(error) from error
        except PyMongoError as error:
            raise translate(error) from error

    def _advance(self, raw: RawBSONDocument, receive: Callable[[Happening | Idle], None]) -> None:
        decoded = decode(bytes(raw.raw), self._database.codec_options)
        whole = self._fragments.add(decoded, len(raw.raw))
        if whole is None:
            return
        event = whole.event
        if not self._with_documents or _is_without_document(event):
            self._fetch_document(event)
        self._check_times(event)
        # An invalidate shares the version of what caused it, and means nothing by itself.
        causes = event["operationType"] != "invalidate" or self.last is None
        version = version_of(event, self.last) if causes else self.last
        assert version is not None
        happening = interpret(event, version, self._scope, self.known, whole.size)
        self.known |= happening.collections
        receive(happening)
        self._token, self.last = happening.token, version

    def _fetch_document(self, event: Fields) -> None:
        """Look up a document as the server does for an update: as it is now, or gone."""
        if event["operationType"] not in ("insert", "update", "replace"):
            return
        with translated(), self._client.start_session(causal_consistency=True) as session:
            session.advance_operation_time(event["clusterTime"])
            event["fullDocument"] = self._database[event["ns"]["coll"]].find_one(
                {"_id": event["documentKey"]["_id"]}, self._scope.projection(), session=session
            )

    # --- history --------------------------------------------------------------------------

    def check_history(self) -> None:
        """Make sure that the server still has the event that we saw last.

        One that was restored to an earlier time, or is another one, may go on after our token as
        if nothing had been in between. `follow` asks again whenever the stream broke. Raises
        `PositionLost`, `Unavailable`.
        """
        if self.last is None or self._token is None:
            return
        last = Timestamp(self.last.seconds, self.last.increment)
        try:
            stream = self._watch(False, start_at_operation_time=BsonTimestamp(*last))
            with stream:
                found = self._first_time(stream, last)
        except PositionLost:
            return  # The server has forgotten it; whether it can go on, the token decides.
        if found is not None and found != last:
            raise PositionLost(
                f"MongoDB does not know the change of {last} that the index has seen: the database "
                "was restored to an earlier time, or is another one"
            )

    def _first_time(self, stream: DatabaseChangeStream[Any], begin: Timestamp) -> Timestamp | None:
        """The time of the first event at or after `begin`, or one up to which there is none; None
        if that cannot be told."""
        deadline = time.monotonic() + HISTORY_SECONDS
        while time.monotonic() < deadline and not self._control.stop_requested:
            event = self._next(stream)
            if event is not None:
                return timestamp(event["clusterTime"])
            token = _plain(stream.resume_token)
            reached = token and self._time_of(token)
            if reached and reached > begin:
                return reached
        return None

    # --- time of idle tokens --------------------------------------------------------------

    def _rest(
        self, stream: DatabaseChangeStream[Any], receive: Callable[[Happening | Idle], None]
    ) -> None:
        token = _plain(stream.resume_token)
        if token is None or token == self._idle_token:
            return
        receive(Idle(token, self._time_of(token)))
        self._token = self._idle_token = token

    def _time_of(self, token: Token) -> Timestamp | None:
        time = token_time(token) if self._times_known else None
        if time is None or not self._is_sharded():
            return time
        # Another shard may still report an event of the same time.
        return just_below(time)

    def _is_sharded(self) -> bool:
        return self._client.topology_description.topology_type_name == "Sharded"

    def _check_times(self, event: Fields) -> None:
        expected = timestamp(event["clusterTime"])
        if self._times_known and token_time(event["_id"]) != expected:
            _log.warning("resume_token_format_unknown", effect="the watermark stays a step behind")
            self._times_known = False


def _is_without_document(event: Fields) -> bool:
    # Gone, most likely; but SecantusDB also finds nothing for a null `_id`, and asking is cheap.
    return event["operationType"] == "update" and event.get("fullDocument") is None


def _plain(token: Any) -> Token | None:
    return decode(bytes(token.raw), CodecOptions()) if isinstance(token, RawBSONDocument) else token
