"""What one change does to the index: pure, from what is stored to what shall be stored.

The order of the writes that carry a plan out is what makes a crash harmless: new chunks first
(invisible until an entry lists them), then changed payloads, then the entry (the commit), then the
removal of what the entry no longer lists.

Other writers may be at work on the same document. A chunk that a clean entry lists can be taken as
it is: whoever rewrites it says so in the entry first. Any other stored chunk is *adopted*: stamped
with the plan's version, and looked at again before an entry lists it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from models.ids import chunk_hash, chunk_id
from models.points import StoredChunk
from models.records import Chunk, Entry, Failed, Key, Record, Removal, Revision, Version


class NewChunk(Record):
    """A chunk that is not stored yet."""

    id: str
    key: Key
    version: Version
    hash: str
    chunk: Chunk
    metadata: Mapping[str, Any]


class Plan(Record):
    """All writes of one change, in the order in which they are to be done."""

    new: tuple[NewChunk, ...] = ()
    adopted: tuple[StoredChunk, ...] = ()
    """Stored chunks as they must be when the entry lists them."""
    headings: tuple[StoredChunk, ...] = ()
    """Stored chunks that get these headings, one by one."""
    metadata: tuple[str, ...] = ()
    """The point ids that get `wanted` as their metadata, in one write."""
    wanted: Mapping[str, Any] = {}
    entry: Entry
    before: Entry | None = None
    """The entry that the plan was made against, if it counts."""
    removed: tuple[str, ...] = ()
    stored_by_itself: bool = False
    """Chunks to remove may be of the plan's own version."""
    unchanged: bool = False
    """Nothing but the version differs from the entry."""

    @property
    def must_announce(self) -> bool:
        """Whether chunks that the entry lists are rewritten, which it does not say yet."""
        before = self.before
        if before is None or before.rewriting == self.entry.version:
            return False
        rewritten = {*self.metadata, *(chunk.id for chunk in self.headings)}
        return not rewritten.isdisjoint(before.chunks)


def dirty(entry: Entry, version: Version) -> Entry:
    """The entry as it stands while a change of `version` rewrites chunks that it lists.

    It matches no digest: if the rewriting is cut short, no later change is taken for unchanged.
    """
    return entry.model_copy(update={"digest": "", "metadata_digest": "", "rewriting": version})


def merged(changes: Iterable[Removal | Failed | Revision]) -> set[Key]:
    """Documents of which `latest` leaves changes out.

    Another writer may be at work on one of those, so what it rewrites cannot be taken as it is,
    even where the last change says the same as the entry.
    """
    counts = Counter(change.key for change in changes)
    return {key for key, count in counts.items() if count > 1}


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
    revision: Revision,
    entry: Entry | None,
    stored: Mapping[str, StoredChunk],
    *,
    trusted: bool = True,
) -> Plan:
    """`stored` holds every point of this document, listed or not; ignored where not chunked.

    `trusted`: the chunks that the entry lists can be taken as they are.
    """
    if revision.skip or revision.chunks is None:
        return _plan_same_text(revision, entry)
    key, version, metadata = revision.key, revision.version, revision.document.metadata
    identified = identify(key, revision.chunks)
    listed = entry.chunks if entry and trusted and entry.rewriting is None else ()
    kept = [
        stored[i]._replace(version=version, headings=chunk.headings, metadata=metadata)
        for i, (_, chunk) in identified.items()
        if i in stored
    ]
    return Plan(
        new=tuple(
            NewChunk(id=i, key=key, version=version, hash=h, chunk=chunk, metadata=metadata)
            for i, (h, chunk) in identified.items()
            if i not in stored
        ),
        adopted=tuple(chunk for chunk in kept if chunk.id not in listed),
        headings=tuple(c for c in kept if stored[c.id].headings != c.headings),
        metadata=tuple(c.id for c in kept if stored[c.id].metadata != metadata),
        wanted=metadata,
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
        metadata=() if same_metadata else entry.chunks,
        wanted=revision.document.metadata,
        entry=_indexed(revision, entry.chunks),
        before=entry,
        unchanged=same_metadata and entry.state == "indexed",
    )


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
