"""Two writers on one index in memory, of which one stalls at any call that a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from connectors.index import Index
from connectors.memory import MemoryStore
from models.points import of_kind, read_chunk, read_entry
from models.records import Change, Key, Timestamp, Version
from syncline.rules import MappingRule
from tests.pipeline import Pipeline

Batches = Sequence[Sequence[Change] | Timestamp]
"""Changes that are applied together, or a watermark up to which is swept."""
LOWEST = Version(0, 0)
MARKDOWN = {"notes": MappingRule.model_validate({"content_type": "markdown"})}


class Stalling:
    """A store through which the n-th call waits until `meanwhile` has been done."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: list[str] = []
        self.stall_at = -1
        self.meanwhile: Callable[[], object] = lambda: None
        self.after_each: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self.stall_at:
                self.meanwhile()
            answer = call(*args, **kwargs)
            if len(self.calls) > self.stall_at >= 0:
                self.after_each()
            return answer

        return watched


class Race(NamedTuple):
    """What was there, what the first one applies in one batch, and what the other one applies
    while the first one stalls."""

    before: Batches
    first: Sequence[Change]
    other: Batches
    first_is_newer: bool = False

    @property
    def history(self) -> Batches:
        """All of it, in the order of the versions."""
        return [*self.before, *self.other, *([self.first] if self.first_is_newer else [])]


def seen(store: MemoryStore, *collections: str) -> dict[Key, Any]:
    """What readers see of each document, without versions. Fails where a listed chunk is gone."""
    index = Index(store)
    chunks = {p.id: read_chunk(p.id, p.payload) for p in index.scroll(of_kind("chunk"))}
    hidden = index.hidden_below(collections or ["notes"])
    documents = {}
    for stored in index.scroll(of_kind("entry")):
        entry = read_entry(stored.payload)
        if entry.state == "deleted" or entry.version < hidden.get(entry.key.collection, LOWEST):
            continue
        assert {*entry.chunks} <= chunks.keys(), f"a hole in {entry.key} at {entry.version}"
        listed = [chunks[id_] for id_ in entry.chunks]
        documents[entry.key] = (
            entry.state,
            entry.digest,
            [(c.text, c.headings, dict(c.metadata)) for c in listed],
        )
    return documents


def apply(pipeline: Pipeline, batches: Batches) -> None:
    for batch in batches:
        if isinstance(batch, Timestamp):
            pipeline.index.sweep(batch, keep_seconds=1_000, more=lambda: True)
        else:
            pipeline.run(*batch)


def alone(batches: Batches) -> dict[Key, Any]:
    """What one undisturbed writer makes of it."""
    memory = MemoryStore()
    apply(Pipeline(memory, MARKDOWN), batches)
    return seen(memory)


def undisturbed(store: Stalling, race: Race) -> Pipeline:
    """The first one, before it begins."""
    pipeline = Pipeline(store, MARKDOWN)
    apply(pipeline, race.before)
    store.calls.clear()
    return pipeline
