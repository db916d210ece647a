"""The steps before the apply step, as the dataflow runs them: batches of values in, values out.

A document that a step cannot handle becomes a `Failed` value and flows on; only a broken world
raises. `skip_unchanged` is a saving, not a decision: the apply step decides again against what
is stored then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog

from connectors.index import Index
from models.records import (
    Change,
    Delete,
    Failed,
    Failure,
    Floor,
    Item,
    Key,
    Removal,
    Revision,
    Upsert,
    Version,
)
from syncline.control import Control
from syncline.errors import Rejected, Stopped
from syncline.retry import keep_trying
from syncline.rules import MappingRule
from transforms.chunk import Chunker
from transforms.clean import clean
from transforms.map import content_digest, map_document, metadata_digest
from transforms.plan import is_unchanged

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class Steps:
    """map, skip_unchanged, clean and chunk over batches; pure but for the ledger's reading."""

    def __init__(
        self,
        rule_of: Callable[[str], MappingRule],
        chunker: Chunker,
        index: Index,
        control: Control,
    ) -> None:
        self._rule_of = rule_of
        self._chunker = chunker
        self._index = index
        self._control = control

    def map(self, batch: list[Change]) -> list[Item]:
        """MongoDB documents become documents; deletes and excluded ones become removals."""
        return [self.map_change(change) for change in batch]

    def map_change(self, change: Change) -> Item:
        """One change, mapped."""
        if isinstance(change, Floor):
            return change
        if isinstance(change, Delete):
            return Removal(key=change.key, version=change.version)
        return _guarded("map", change.key, change.version, lambda: self._map(change))

    def skip_unchanged(self, batch: list[Item]) -> list[Item]:
        """Documents whose text is as the ledger knows it are not cleaned and chunked again."""
        keys = [item.key for item in batch if isinstance(item, Revision)]
        if not keys:
            return batch
        try:
            entries = keep_trying(lambda: self._index.entries(keys), self._control)
        except Stopped:
            return batch
        return [
            item.model_copy(update={"skip": True})
            if isinstance(item, Revision) and is_unchanged(item, entries.get(item.key))
            else item
            for item in batch
        ]

    def clean(self, batch: list[Item]) -> list[Item]:
        """Content becomes structured blocks."""
        return [_clean(i) if isinstance(i, Revision) and not i.skip else i for i in batch]

    def chunk(self, batch: list[Item]) -> list[Item]:
        """Blocks become chunks."""
        return [
            _chunk(i, self._chunker) if isinstance(i, Revision) and not i.skip else i for i in batch
        ]

    def clean_and_chunk(self, batch: list[Item]) -> list[Item]:
        """Both in one step, in this process; `flows.parallel` does it in others."""
        return self.chunk(self.clean(batch))

    def prepare(self, revision: Revision) -> Revision | Failed:
        """Clean and chunk one revision, whatever `skip_unchanged` took it for."""
        return prepare(revision.model_copy(update={"skip": False}), self._chunker)

    def _map(self, change: Upsert) -> Revision | Removal:
        document = map_document(change, self._rule_of(change.key.collection))
        if document is None:
            return Removal(key=change.key, version=change.version)
        return Revision(
            key=change.key,
            version=change.version,
            document=document,
            digest=content_digest(document),
            metadata_digest=metadata_digest(document),
        )


def prepare(revision: Revision, chunker: Chunker) -> Revision | Failed:
    """Clean and chunk one revision."""
    return _chunk(_clean(revision), chunker)


def _clean(revision: Revision) -> Revision | Failed:
    return _guarded(
        "clean",
        revision.key,
        revision.version,
        lambda: revision.model_copy(update={"blocks": clean(revision.document)}),
    )


def _chunk(revision: Revision | Failed, chunker: Chunker) -> Revision | Failed:
    if isinstance(revision, Failed):
        return revision
    chunked = partial(chunker.chunk, revision.document.title, revision.blocks or ())
    return _guarded(
        "chunk",
        revision.key,
        revision.version,
        lambda: revision.model_copy(update={"chunks": chunked(), "blocks": None}),
    )


def _guarded(step: str, key: Key, version: Version, call: Callable[[], _T]) -> _T | Failed:
    try:
        return call()
    except Rejected as error:
        failure = Failure(step=error.step, reason=error.reason)
    except Exception as error:  # the promise is that one document harms only itself: see docstring
        _log.exception("step_failed_unexpectedly", step=step, collection=key.collection)
        failure = Failure(step=step, reason=f"unexpected {type(error).__name__}: {error}"[:500])
    return Failed(key=key, version=version, failure=failure)
