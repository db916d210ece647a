"""Bringing documents that differ back in line, through the apply step.

A repair is a change like any other: the document as it is read now, at a cluster time noted before
it was read, so that whatever the flow applies later wins. Chunks that are stored are not embedded
again. Doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from connectors.index import Unlisted
from flows.verify_compare import Comparison, bson_ids, by_collection
from flows.verify_pair import Finding, Known
from flows.verify_settle import Settled, Settler
from models.ids import key_of
from models.points import OWN, written_up_to
from models.records import Entry, Failed, Item, Key, Removal, Revision, Version

Apply = Callable[[Sequence[Item]], None]
ROUNDS = 3
"""Each round can lose a document to a newer change of the flow, which brings it in line itself."""


class Repairer:
    """Repairs what a comparison has confirmed."""

    def __init__(self, comparison: Comparison, settler: Settler, apply: Apply) -> None:
        self._comparison = comparison
        self._settler = settler
        self._apply = apply

    def repair(self, findings: Sequence[Finding]) -> Settled:
        """Repair and look again; what still differs comes back.

        Raises what the apply step raises: `Stopped`, or `Misconfigured`.
        """
        left = Settled([*findings], 0)
        for _ in range(ROUNDS):
            if not left.drift:
                break
            self._repair_once(left.drift)
            found = self._settler.confirm([finding.key for finding in left.drift])
            is_stuck = found.drift == left.drift
            left = Settled(found.drift, left.unsettled + found.unsettled)
            if is_stuck:
                break
        return left

    def _repair_once(self, findings: Sequence[Finding]) -> None:
        self._remove_blind(findings)
        for items in self._changes([finding.key for finding in findings]):
            self._apply(items)
        self._rewrite(findings)
        self._remove_strays(findings)

    def _changes(self, keys: Sequence[Key]) -> Iterator[list[Item]]:
        for collection, group in by_collection(keys).items():
            # Entries, then the time, then documents: what is read is then at least as new as its
            # entry, and may carry the entry's version where that is the higher one.
            entries = self._comparison.index.entries(group)
            noted = Version(*self._comparison.note_time())
            ahead = {k: e for k, e in entries.items() if self._comparison.is_ahead(e)}
            self._comparison.index.rewind([*ahead.values()], noted)
            known = {k: e.version for k, e in entries.items() if k not in ahead}
            versions = {key: max(noted, known.get(key, noted)) for key in group}
            absent = set(group)
            for batch in self._comparison.reader.find_many(collection, bson_ids(group)):
                fields = {key_of(collection, d["_id"]): d for d in batch}
                found = {key: d for key, d in fields.items() if key in absent}
                absent -= set(found)
                yield self._wanted(
                    [self._comparison.map_one(k, d, versions[k]) for k, d in found.items()], entries
                )
            yield self._wanted([Removal(key=k, version=versions[k]) for k in absent], entries)

    def _wanted(self, items: Sequence[Known], entries: Mapping[Key, Entry]) -> list[Item]:
        changes: list[Item] = []
        for item in items:
            self._comparison.pause_point()
            known = self._comparison.steps.prepare(item) if isinstance(item, Revision) else item
            entry = entries.get(item.key)
            if not _is_recorded(known, entry.state if entry else "deleted"):
                changes.append(known)
        return changes

    def _remove_blind(self, findings: Sequence[Finding]) -> None:
        """What is not stored is embedded again."""
        index = self._comparison.index
        with index.applying:
            index.delete([id_ for finding in findings for id_ in finding.blind])

    def _rewrite(self, findings: Sequence[Finding]) -> None:
        """A chunk's text and identity follow from its id, so no newer change says otherwise; its
        headings stay as a newer change wrote them."""
        for finding in findings:
            for point_id, payload in finding.rewrites.items():
                seen = payload[OWN]["written"] if OWN in payload else None
                only_if = written_up_to(Version(**seen)) if seen else None
                self._comparison.index.store.set_payload([point_id], payload, only_if=only_if)

    def _remove_strays(self, findings: Sequence[Finding]) -> None:
        """Of documents without an indexed version; for the others the apply step has done it."""
        stray = {finding.key: finding.stray for finding in findings if finding.stray}
        index = self._comparison.index
        with index.applying:  # a plan of the flow may be about to keep one of them
            entries = index.entries(list(stray))
            for key, ids in stray.items():
                entry = entries.get(key)
                if entry is None:
                    index.delete(ids)
                elif entry.state != "indexed":
                    unlisted = [id_ for id_ in ids if id_ not in entry.chunks]
                    index.delete_unlisted([Unlisted(key, unlisted, entry.version, inclusive=True)])


def _is_recorded(item: Known, state: str) -> bool:
    """A tombstone, or a failure, that stands already says all there is to say."""
    return (isinstance(item, Removal) and state == "deleted") or (
        isinstance(item, Failed) and state == "failed"
    )
