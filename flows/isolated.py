"""One document harms only itself, also by an error of the apply step that nobody has thought of."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import structlog

from models.records import Failed, Failure, Key, Removal, Revision
from syncline.errors import Rejected, SynclineError

_log = structlog.get_logger(__name__)

DEFECT_DOCUMENTS = 5
"""Documents one after the other that fail in a way nobody has thought of, until it is taken for a
defect of ours and ends the flow. To stop needlessly is loud; to record a whole database as failed
costs a repair of all of it."""

Change = Revision | Removal | Failed
Apply = Callable[[Sequence[Change], Set[Key]], set[Key]]
"""Applies a page of changes, given the keys of which others were left out; what was overtaken."""


class Isolated:
    """`apply`, by which a document that cannot be applied is recorded as failed.

    An error that we raise on purpose says of what it is: only a `Rejected` is a document's. Doing
    a page again costs reads, because every write is a difference against what is stored.
    """

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._unexpected_in_a_row = 0

    def __call__(self, page: Sequence[Change], merged: Set[Key]) -> set[Key]:
        """A page; if something in it cannot be applied, each of its documents by itself."""
        try:
            lost = self._apply(page, merged)
        except Exception as error:
            if not _may_be_a_documents(error):
                raise
            return self._one_by_one(page, merged)
        self._unexpected_in_a_row = 0
        return lost

    def _one_by_one(self, page: Sequence[Change], merged: Set[Key]) -> set[Key]:
        lost: set[Key] = set()
        failed: list[Change] = []
        for change in page:
            try:
                lost |= self._apply([change], merged)
                self._unexpected_in_a_row = 0
            except Exception as error:
                self._unexpected_in_a_row += not isinstance(error, Rejected)
                if not _may_be_a_documents(error) or self._unexpected_in_a_row >= DEFECT_DOCUMENTS:
                    raise
                failure = _failure_of(error)
                failed.append(Failed(key=change.key, version=change.version, failure=failure))
        return lost | self._apply(failed, merged)


def _may_be_a_documents(error: Exception) -> bool:
    return isinstance(error, Rejected) or not isinstance(error, SynclineError)


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, Rejected):
        return Failure(step=error.step, reason=error.reason)
    _log.error("apply_failed_unexpectedly", exc_info=error)
    return Failure(step="apply", reason=f"unexpected {type(error).__name__}: {error}"[:500])
