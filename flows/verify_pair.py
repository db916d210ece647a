"""Both sides of one document, and how they differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from connectors.store import Stored
from flows.verify_report import Drift, Kind, drift_of
from models.points import OWN, Payload, own_chunk_payload
from models.records import Chunk, Entry, Failed, Key, Removal, Revision, Version

Known = Revision | Removal | Failed
"""What the database says of a document; `Removal`: it is gone or excluded."""


class Finding(NamedTuple):
    """A document for which index and database differ."""

    key: Key
    drifts: tuple[Drift, ...]
    seen: tuple[str, ...]
    """Fingerprint of what the database said: equal means that it did not change."""
    version: Version | None
    """Of its entry, if there is one."""
    stray: tuple[str, ...]
    """Its chunk points that no entry lists, sorted."""
    rewrites: Mapping[str, Payload]
    """Top-level payload keys of chunk points that the apply step takes for granted."""
    blind: tuple[str, ...]
    """Its chunk points without a usable vector, which the apply step takes for embedded."""


@dataclass
class Pair:
    """Both sides of one document."""

    item: Known
    entry: Entry | None
    hidden: bool
    """The entry is below its collection's floor: readers do not see it, a sweep removes it."""
    ahead: bool = False
    """The entry claims a version that the database has not reached: every change is older."""
    chunks: Mapping[str, tuple[str, Chunk]] | None = None
    """Chunk id -> (hash, chunk), in order, as the text gives them; None where not chunked."""
    stored: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    rewrites: dict[str, Payload] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)

    @property
    def listed(self) -> tuple[str, ...]:
        return self.entry.chunks if self.entry else ()


def look_at_chunk(pair: Pair, stored: Stored, *, deep: bool) -> None:
    """Take down a chunk point of the document, and what is wrong with it; `deep`: its text too."""
    pair.stored.add(stored.id)
    if not isinstance(pair.item, Revision) or not is_indexed(pair) or stored.id not in pair.listed:
        return
    own = stored.payload[OWN]
    known = pair.chunks.get(stored.id) if pair.chunks else None
    input_hash, headings = own.get("hash", ""), tuple(own.get("headings") or ())
    if known is not None:
        input_hash, headings = known[0], known[1].headings
    written = Version(**own["written"])
    wanted: Payload = {OWN: own_chunk_payload(pair.item.key, written, input_hash, headings)}
    if deep and known is not None:
        wanted["page_content"] = known[1].text
    wrong = {name: value for name, value in wanted.items() if stored.payload.get(name) != value}
    if wrong:
        pair.rewrites[stored.id] = wrong
        pair.wrong.append(f"{' and '.join(wrong)} of chunk {stored.id}")
    if (stored.payload.get("metadata") or {}) != pair.item.document.metadata:
        pair.wrong.append(f"metadata of chunk {stored.id}")


def finding_of(pair: Pair) -> Finding:
    """How the two sides differ; no drift if they do not."""
    key = pair.item.key
    drifts = tuple(drift_of(key, kind, detail) for kind, detail in _differences(pair))
    is_stray = any(drift.kind == "orphaned_chunk" for drift in drifts)
    return Finding(
        key=key,
        drifts=drifts,
        seen=_fingerprint(pair.item),
        version=pair.entry.version if pair.entry else None,
        stray=tuple(sorted(pair.stored.difference(pair.listed))) if is_stray else (),
        rewrites=pair.rewrites,
        blind=tuple(pair.blind),
    )


def _differences(pair: Pair) -> Iterator[tuple[Kind, str]]:
    if isinstance(pair.item, Removal):
        yield from _differences_of_absent(pair)
    elif pair.entry is None or pair.entry.state == "deleted" or pair.hidden:
        yield "missing", f"its entry is {_state(pair)}"
    elif isinstance(pair.item, Failed) and pair.entry.state != "failed":
        yield "missing", f"it fails ({pair.item.failure.reason}), which its entry does not say"
    else:
        if pair.ahead:
            yield "stale", f"its version {pair.entry.version} is one of the database's future"
        elif isinstance(pair.item, Revision) and (reason := _staleness(pair, pair.item)):
            yield "stale", reason
        yield from _differences_of_chunks(pair)


def _differences_of_absent(pair: Pair) -> Iterator[tuple[Kind, str]]:
    if pair.entry is not None and pair.hidden:
        return
    if pair.entry is not None and pair.entry.state != "deleted":
        yield "orphaned_document", "it is not in the database, or excluded by its mapping"
    elif pair.stored:
        yield "orphaned_chunk", f"{_some(pair.stored)} stored, its entry is {_state(pair)}"


def _differences_of_chunks(pair: Pair) -> Iterator[tuple[Kind, str]]:
    listed = set(pair.listed)
    if absent := listed - pair.stored:
        yield "missing_chunk", f"{_some(absent)} listed and not stored"
    if stray := pair.stored - listed:
        yield "orphaned_chunk", f"{_some(stray)} stored and not listed"


def _staleness(pair: Pair, revision: Revision) -> str:
    """Why an entry that exists does not stand for this revision; empty if it does."""
    entry = pair.entry
    assert entry is not None
    if entry.state == "failed":
        # Only applying it tells whether it still fails there, and comparing writes nothing.
        step = entry.failure.step if entry.failure else ""
        is_tried = step in ("embed", "store", "apply")
        return "" if is_tried else "it is recorded as failed, and can be indexed"
    if entry.digest != revision.digest:
        return "its text is not what was indexed"
    if entry.metadata_digest != revision.metadata_digest or entry.title != revision.document.title:
        return "its metadata is not what was indexed"
    if pair.chunks is not None and tuple(pair.chunks) != entry.chunks:
        return "its list of chunks is not what its text gives"
    return f"{pair.wrong[0]} is not what was indexed" if pair.wrong else ""


def is_indexed(pair: Pair) -> bool:
    """Whether readers see the document."""
    return pair.entry is not None and pair.entry.state == "indexed" and not pair.hidden


def _state(pair: Pair) -> str:
    if pair.entry is None:
        return "absent"
    return "below its collection's floor" if pair.hidden else "a tombstone"


def _some(ids: set[str]) -> str:
    return f"{len(ids)} chunks ({min(ids)}, ...)" if len(ids) > 1 else f"1 chunk ({min(ids)})"


def _fingerprint(item: Known) -> tuple[str, ...]:
    match item:
        case Revision():
            return (item.digest, item.metadata_digest)
        case Failed():
            return ("failed", item.failure.step, item.failure.reason)
        case Removal():
            return ("gone",)
