"""PyMongo's errors as ours, by server code and exception class, never by text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo import errors

from syncline.errors import Misconfigured, PositionLost, SynclineError, Unavailable

SERVICE = "mongo"

_LOST_CODES = frozenset({286, 280, 260, 136, 222, 40576, 40585})
"""ChangeStreamHistoryLost, ChangeStreamFatalError, InvalidResumeToken, CappedPositionLost,
CloseChangeStream, and the unnamed "resume token was not found". Worse than taking one of them for
a passing trouble (waiting for ever) is a needless snapshot (reads, no embeddings): so the doubtful
ones are here."""

_TOKEN_CODES = frozenset({9, 14, 40647, 40648, 40649, 50811})
"""FailedToParse, TypeMismatch and their unnamed kin: a resume token that this server cannot read,
if one was sent, for instance because the URI now leads to another kind of server."""

_PASSING_CODES = frozenset(
    {
        *(6, 7, 89, 91, 9001),  # the network, or a shutdown
        *(189, 10107, 11600, 11602, 13435, 13436, 133),  # elections
        *(63, 150, 13388, 234, 70, 317),  # routing in a sharded cluster
        *(43, 237, 175, 11601, 50, 262, 202),  # a cursor or an operation that was cut off
        *(24, 46, 112, 134, 208, 239, 246, 365, 384, 402, 462),  # load, and snapshots not ready
    }
)

_DENIED_CODES = frozenset({13, 18, 11, 33, 8000, 334})
"""Unauthorized, AuthenticationFailed, UserNotFound, Atlas, unsupported mechanisms."""

_UNSUPPORTED_CODES = frozenset({2, 20, 26, 59, 72, 73, 115, 166, 303, 323, 40324, 40415, 40573})
"""What a server answers that does not know change streams, or is no replica set."""

UNKNOWN_STAGE_CODES = frozenset({40324, 16436})
"""What a server answers that does not know a stage of the pipeline."""

RESULT_TOO_LARGE_CODES = frozenset({10334, 17419, 17420})
"""BSONObjectTooLarge: an event with its document is larger than a reply can be."""


def translate(error: errors.PyMongoError, *, resuming: bool = False) -> SynclineError:
    """The error of ours that `error` stands for.

    `resuming`: a resume token was sent with the command that failed. An error that nobody has
    thought of becomes a bare `SynclineError`, which ends the flow.
    """
    if isinstance(error, errors.OperationFailure):
        return _by_code(error, resuming)
    if isinstance(error, errors.ConnectionFailure | errors.WaitQueueTimeoutError):
        return Unavailable(SERVICE, _first_line(error))
    if isinstance(error, errors.InvalidOperation | errors.CursorNotFound):
        # The client or the cursor was closed under us: by a stop, or by a retry that failed.
        return Unavailable(SERVICE, _first_line(error))
    if isinstance(error, errors.ProtocolError):
        return Misconfigured(
            f"what answers at the MongoDB address does not speak its protocol: {error}",
            "check host and port in mongo.uri",
            code="mongo_unfit",
        )
    if isinstance(error, errors.ConfigurationError | errors.InvalidName):
        return Misconfigured(f"MongoDB cannot be used like this: {error}", "correct mongo.uri")
    return SynclineError(f"unexpected MongoDB error: {type(error).__name__}: {error}")


@contextmanager
def translated(*, resuming: bool = False) -> Iterator[None]:
    """Raise the errors of the block as ours, cause chained."""
    try:
        yield
    except errors.PyMongoError as error:
        raise translate(error, resuming=resuming) from error


def _by_code(error: errors.OperationFailure, resuming: bool) -> SynclineError:
    code = error.code
    if code in _LOST_CODES or (resuming and code in _TOKEN_CODES):
        return PositionLost(
            f"MongoDB no longer has the changes from here on ({_first_line(error)})"
        )
    if code in _PASSING_CODES or _is_labelled_passing(error):
        return Unavailable(SERVICE, _first_line(error))
    if code in _DENIED_CODES:
        return Misconfigured(
            f"MongoDB refuses the user of mongo.uri: {_first_line(error)}",
            'check user and password, and grant the role "read" on the database',
            code="access_refused",
        )
    if code in _UNSUPPORTED_CODES:
        return Misconfigured(
            f"this MongoDB server cannot do what Syncline needs: {_first_line(error)}",
            "use a MongoDB replica set or sharded cluster, version 6.0 or later",
            code="mongo_unfit",
        )
    return SynclineError(f"unexpected MongoDB error {code}: {_first_line(error)}")


def _is_labelled_passing(error: errors.PyMongoError) -> bool:
    labels = ("ResumableChangeStreamError", "RetryableError", "TransientTransactionError")
    return any(error.has_error_label(label) for label in labels)


def _first_line(error: Exception) -> str:
    return str(error).split(", full error:")[0].split(", Timeout:")[0].split("\n")[0][:300]
