"""Every error of the driver is one of ours."""

from __future__ import annotations

import pytest
from pymongo import errors

from connectors.mongo_errors import translate, translated
from syncline.errors import Misconfigured, PositionLost, SynclineError, Unavailable

# Raised by an API that is not used, or caught before they reach the gateway.
NOT_OURS = {
    errors.BulkWriteError,
    errors.ClientBulkWriteException,
    errors.CollectionInvalid,
    errors.DocumentTooLarge,
    errors.DuplicateKeyError,
    errors.EncryptedCollectionError,
    errors.EncryptionError,
    errors.PyMongoError,
    errors.OperationFailure,
    errors.WriteConcernError,
    errors.WriteError,
}


def all_errors(kind: type[errors.PyMongoError]) -> set[type[errors.PyMongoError]]:
    """The class and all below it."""
    public = [below for below in kind.__subclasses__() if not below.__name__.startswith("_")]
    return {kind}.union(*(all_errors(below) for below in public))


@pytest.mark.parametrize("kind", sorted(all_errors(errors.PyMongoError) - NOT_OURS, key=repr))
def test_every_class_is_translated(kind: type[errors.PyMongoError]) -> None:
    """No class of the driver's errors falls through to the bare base class."""
    error = kind("text", code=50) if issubclass(kind, errors.OperationFailure) else kind("text")
    assert type(translate(error)) is not SynclineError


LABEL = {"errorLabels": ["ResumableChangeStreamError"]}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, PositionLost) for code in (286, 280, 260, 136, 222)),
        *((code, Misconfigured) for code in (13, 18, 8000, 40573, 59)),
        *((code, Unavailable) for code in (6, 7, 89, 91, 189, 9001, 10107, 11600, 11602)),
        *((code, Unavailable) for code in (13435, 13436, 43, 237, 50, 262, 175, 234)),
    ],
)
def test_codes(code: int, expected: type[SynclineError]) -> None:
    """The server's code decides, whatever the text says."""
    assert type(translate(errors.OperationFailure("unauthorized, history lost", code))) is expected


def test_unknown_code_ends_the_flow() -> None:
    """A code that nobody has thought of is neither waited for nor repaired in silence."""
    assert type(translate(errors.OperationFailure("?", 999_999))) is SynclineError


def test_label_of_the_server() -> None:
    """The server's own word that a stream may go on is believed."""
    error = errors.OperationFailure("?", 999_999, LABEL)
    assert type(translate(error)) is Unavailable


@pytest.mark.parametrize("code", [9, 14, 40647, 50811])
def test_unreadable_token_only_where_one_was_sent(code: int) -> None:
    """A parse error is a lost position only if it can be about a resume token."""
    error = errors.OperationFailure("?", code)
    assert type(translate(error, resuming=True)) is PositionLost
    assert type(translate(error)) is not PositionLost


def test_cause_is_chained() -> None:
    """The driver's error stays visible behind ours."""
    cause = errors.AutoReconnect("connection closed")
    with pytest.raises(Unavailable, match="connection closed") as caught, translated():
        raise cause
    assert caught.value.__cause__ is cause
