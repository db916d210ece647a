"""What one change does to the index: pure, from what is stored to what shall be stored.

The order of the writes that carry a plan out is what makes a crash harmless: new chunks first
(invisible until an entry lists them), then changed payloads, then the entry (the commit), then the
removal of what the entry no longer lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from models.ids import chunk_hash, chunk_id
from models.points import StoredChunk, own_chunk_payload
from models.records import Chunk, Entry, Failed, Key, Record, Removal, Revision, Version


class NewChunk(Record):
    """A chunk that is not stored yet."""

    id: str
    key: Key
    hash: str
    chunk: Chunk
    metadata: Mapping[str, Any]


class Plan(Record):
    """All writes of one change, in the order in which they are to be done."""

    new: tuple[NewChunk, ...] = ()
    payloads: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Top-level payload keys to replace: (point id, keys)."""
    metadata: tuple[tuple[str, ...], Mapping[str, Any]] | None = None
    """The point ids that get this metadata, in one write."""
    entry: Entry
    before: Entry | None = None
    """The entry that the plan was made against."""
    removed: tuple[str, ...] = ()
    unchanged: bool = False
    """Nothing but the version differs from the entry."""


def dirty(entry: Entry) -> Entry:
    """The entry as it stands while payloads of chunks that it lists are rewritten.

    It matches no digest: if the rewriting is cut short, no later change is taken for unchanged.
    """
    return entry.model_copy(update={"digest": "", "metadata_digest": ""})


def latest(changes: Iterable[Removal | Failed | Revision]) -> list[Removal | Failed | Revision]:
    """The last change of each document: of the highest version, among equals the last."""
    last: dict[Key, Removal | Failed | Revision] = {}
    for change in changes:
        known = last.get(change.key)
        if known is None or change.version >= known.version:
            last[change.key] = change
    return list(last.values())


def is_stale(key: Key, version: Version, entry: Entry | None, floor: Version | None) -> bool:
    """Whether a change is strictly older than its entry or its collection's floor."""
    return (entry is not None and version < entry.version) or (
        floor is not None and version < floor
    )


def is_unchanged(revision: Revision, entry: Entry | None) -> bool:
    """Whether the entry's chunks are those of this text, so that it need not be chunked."""
    return entry is not None and entry.state != "deleted" and entry.digest == revision.digest


def plan_revision(
    revision: Revision, entry: Entry | None, stored: Mapping[str, StoredChunk]
) -> Plan:
    """`stored` holds every point of this document, listed or not; ignored where not chunked."""
    if revision.skip or revision.chunks is None:
        return _plan_same_text(revision, entry)
    identified = identify(revision.key, revision.chunks)
    metadata = revision.document.metadata
    kept = {id_: stored[id_] for id_ in identified if id_ in stored}
    return Plan(
        new=tuple(
            NewChunk(id=i, key=revision.key, hash=h, chunk=chunk, metadata=metadata)
            for i, (h, chunk) in identified.items()
            if i not in kept
        ),
        payloads=tuple(
            (i, {"syncline": own_chunk_payload(revision.key, h, chunk.headings)})
            for i, (h, chunk) in identified.items()
            if i in kept and kept[i].headings != chunk.headings
        ),
        metadata=_metadata_write([i for i in kept if kept[i].metadata != metadata], metadata),
        entry=_indexed(revision, tuple(identified)),
        before=entry,
        removed=tuple(id_ for id_ in stored if id_ not in identified),
    )


def plan_removal(removal: Removal, entry: Entry | None, stored: Collection[str]) -> Plan:
    """A tombstone, which keeps older versions from coming back, and no chunks."""
    tombstone = Entry(key=removal.key, version=removal.version, state="deleted")
    gone = entry is not None and entry.state == "deleted"
    return Plan(entry=tombstone, before=entry, removed=tuple(stored), unchanged=gone and not stored)


def plan_failure(failed: Failed, entry: Entry | None) -> Plan:
    """The failure is recorded; the last good version stays as it is."""
    known = entry if entry is not None and entry.state != "deleted" else None
    tried = known.failure.attempts if known and known.failure else 0
    again = known is not None and known.version == failed.version  # delivered twice is once
    attempts = max(1, tried if again else tried + 1)
    failure = failed.failure.model_copy(update={"attempts": attempts})
    blank = Entry(key=failed.key, version=failed.version, state="failed")
    changes = {"version": failed.version, "state": "failed", "failure": failure}
    return Plan(entry=(known or blank).model_copy(update=changes), before=entry)


def identify(key: Key, chunks: Iterable[Chunk]) -> dict[str, tuple[str, Chunk]]:
    """Point id -> (hash of the model's input, chunk), in document order."""
    seen: Counter[str] = Counter()
    identified = {}
    for chunk in chunks:
        input_hash = chunk_hash(chunk.input)
        identified[chunk_id(key, input_hash, seen[input_hash])] = (input_hash, chunk)
        seen[input_hash] += 1
    return identified


def _plan_same_text(revision: Revision, entry: Entry | None) -> Plan:
    if entry is None:
        raise ValueError(f"{revision.key} was not chunked and has no entry")
    same_metadata = entry.metadata_digest == revision.metadata_digest
    return Plan(
        metadata=None
        if same_metadata
        else _metadata_write(entry.chunks, revision.document.metadata),
        entry=_indexed(revision, entry.chunks),
        before=entry,
        unchanged=same_metadata and entry.state == "indexed",
    )


def _metadata_write(
    ids: Iterable[str], metadata: Mapping[str, Any]
) -> tuple[tuple[str, ...], Mapping[str, Any]] | None:
    targets = tuple(ids)
    return (targets, metadata) if targets else None


def _indexed(revision: Revision, chunks: tuple[str, ...]) -> Entry:
    return Entry(
        key=revision.key,
        version=revision.version,
        state="indexed",
        digest=revision.digest,
        metadata_digest=revision.metadata_digest,
        chunks=chunks,
        title=revision.document.title,
    )
