"""Puts documents in the place of references: those that were too large for a message.

A document is read as it is now, at or after the reference's version; what is gone is deleted at
that version. Nothing is lost by either: whatever changed it since has a message of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from connectors.mongo import SERVICE
from connectors.mongo_reader import DocumentReader
from connectors.pulsar_lane import Arriving
from models.ids import decode_id, key_of
from models.records import Change, Delete, Failed, Failure, Key, Upsert
from models.wire import Reference
from syncline.control import Control
from syncline.errors import Unavailable
from syncline.retry import keep_trying

STEP = "reference"
_NO_READER = (
    "the document is too large for a message, and this index flow does not know the MongoDB to "
    "read it from: set mongo.uri"
)

_Found = Mapping[Key, Mapping[str, Any]]


class MongoLookup:
    """Resolves the references of a batch. Without a `reader`, each is a document that failed."""

    def __init__(self, reader: DocumentReader | None, control: Control) -> None:
        self._reader = reader
        self._control = control

    def resolve(self, batch: Sequence[Arriving]) -> list[Change | Failed]:
        """The batch in its order, without references.

        Memory: the documents of all references in it. Waits while MongoDB is away; raises
        `Stopped` when a stop is asked for meanwhile.
        """
        references = [item for item in batch if isinstance(item, Reference)]
        found: _Found = {}
        reader = self._reader
        if references and reader is not None:
            found = keep_trying(partial(_find, reader, references), self._control)
        return [
            self._resolved(item, found) if isinstance(item, Reference) else item for item in batch
        ]

    def _resolved(self, reference: Reference, found: _Found) -> Change | Failed:
        key, version = reference.key, reference.version
        if self._reader is None or _id_of(key) is None:
            reason = _NO_READER if self._reader is None else "its _id is not Extended JSON"
            return Failed(key=key, version=version, failure=Failure(step=STEP, reason=reason))
        if key not in found:
            return Delete(key=key, version=version)
        return Upsert(key=key, version=version, fields=found[key], snapshot=reference.snapshot)


def _find(reader: DocumentReader, references: Sequence[Reference]) -> _Found:
    newest = max(reference.version for reference in references)
    # A server that has just become primary may answer from before the change.
    if reader.cluster_time() < newest[:2]:
        raise Unavailable(SERVICE, "it does not show the newest changes yet")
    return dict(_documents(reader, {reference.key for reference in references}))


def _documents(reader: DocumentReader, keys: set[Key]) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    for collection in {key.collection for key in keys}:
        ids = [id_ for key in keys if key.collection == collection for id_ in _id_of(key) or ()]
        for documents in reader.find_many(collection, ids):
            for fields in documents:
                yield key_of(collection, fields["_id"]), fields


def _id_of(key: Key) -> tuple[Any] | None:
    """The `_id`, which may be null, in a tuple; None if the text is no Extended JSON."""
    try:
        return (decode_id(key.id),)
    except ValueError:
        return None
