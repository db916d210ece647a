"""Any history in any delivery: duplicated, delayed, reordered, cut short by crashes.

A dictionary is the database. Every write makes an event with a version; events wait until they are
delivered, in any order and as often as chance wants; pages of snapshots are read when they are
delivered, as a snapshot's are. In the end the index must hold what the dictionary holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from connectors.memory import MemoryStore
from models.ids import key_of
from models.records import (
    ALL_COLLECTIONS,
    Change,
    Delete,
    Floor,
    Key,
    Timestamp,
    Upsert,
    Version,
)
from syncline.rules import MappingRule
from tests.crashing import Crash, crash_after
from tests.pipeline import Pipeline, paragraphs
from tests.racing import seen

NAMES = st.sampled_from(["a", "b"])
IDS = st.integers(0, 1)
TAGS = st.sampled_from(["x", "y"])
TEXTS = st.builds(
    lambda count, edit: paragraphs(count, p0=f"It began with {edit}."),
    st.integers(1, 6),
    st.integers(0, 3),
)
PLACES = st.lists(st.integers(0, 10**6), min_size=1, max_size=6)
"""Which of the events, whatever their number."""
FOREVER = 10**6
"""Seconds for which tombstones and floors are kept: longer than any delay, which is their limit."""
MAPPINGS: Sequence[Mapping[str, MappingRule]] = [
    {},
    {name: MappingRule(include={"tag": "x"}) for name in ("a", "b")},
]


class Page(NamedTuple):
    """A snapshot of a collection, to be read when it is delivered."""

    collection: str
    version: Version


Event = Change | Page


class Convergence(RuleBasedStateMachine):
    """The database, its events, and one index that they are delivered to."""

    def __init__(self) -> None:
        super().__init__()
        self.db: dict[str, dict[int, dict[str, Any]]] = {"a": {}, "b": {}}
        self.time = 1
        self.events: list[Event] = []
        self.waiting: list[Event] = []
        self.mapping = 0
        self.store = MemoryStore()
        self.start()

    def start(self) -> None:
        """A process, which knows nothing but what is stored."""
        self.pipeline = Pipeline(self.store, MAPPINGS[self.mapping])

    def happened(self, *events: Event) -> None:
        self.events += events
        self.waiting += events

    def tick(self) -> Version:
        self.time += 1
        return Version(self.time, 0)

    # --- what happens in the database -----------------------------------------------------

    @rule(name=NAMES, doc_id=IDS, text=TEXTS, tag=TAGS)
    def put(self, name: str, doc_id: int, text: str, tag: str) -> None:
        """An insert, also of what was deleted, or an edit."""
        fields = self.db[name][doc_id] = {"_id": doc_id, "text": text, "tag": tag}
        self.happened(Upsert(key=key_of(name, doc_id), version=self.tick(), fields=fields))

    @rule(name=NAMES, doc_id=IDS, tag=TAGS)
    def retag(self, name: str, doc_id: int, tag: str) -> None:
        """A metadata edit."""
        if doc_id in self.db[name]:
            self.put(name, doc_id, self.db[name][doc_id]["text"], tag)

    @precondition(lambda self: any(self.db.values()))
    @rule(place=st.integers(0, 10))
    def delete(self, place: int) -> None:
        """Any of the documents that there are."""
        documents = [(name, doc_id) for name, found in self.db.items() for doc_id in found]
        name, doc_id = documents[place % len(documents)]
        del self.db[name][doc_id]
        self.happened(Delete(key=key_of(name, doc_id), version=self.tick()))

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        self.db[name] = {}
        self.happened(Floor(collection=name, version=self.tick()))

    @rule(old=NAMES)
    def rename(self, old: str) -> None:
        """Over the other collection, as with dropTarget."""
        new, version = "b" if old == "a" else "a", self.tick()
        self.db |= {new: self.db[old], old: {}}
        floors = [Floor(collection=name, version=version) for name in (old, new)]
        self.happened(*floors, Page(new, version))

    # --- what happens to the flow ---------------------------------------------------------

    @rule()
    def change_the_filter(self) -> None:
        """Started again with another mapping: a new generation, in which all is read again."""
        self.mapping = 1 - self.mapping
        version = self.tick()
        self.start()
        floor = Floor(collection=ALL_COLLECTIONS, version=version)
        self.happened(floor, *(Page(name, version) for name in self.db))

    @rule()
    def restart(self) -> None:
        self.start()

    @rule(places=PLACES)
    def deliver(self, places: list[int]) -> None:
        """Some of what waits, in any order."""
        batch = [self.waiting[place % len(self.waiting)] for place in places if self.waiting]
        self.apply(batch)
        self.waiting = [event for event in self.waiting if event not in batch]

    @rule(places=PLACES)
    def deliver_again(self, places: list[int]) -> None:
        """Anything, however old, whether it was delivered before or not."""
        self.apply([self.events[place % len(self.events)] for place in places if self.events])

    @rule(places=PLACES, writes=st.integers(0, 8))
    def crash(self, places: list[int], writes: int) -> None:
        """Killed between two writes; all of the batch waits for the restart."""
        crash_after(self.store, writes)
        with suppress(Crash):
            self.deliver_again(places)
        self.store.before_write = None
        self.start()

    @rule()
    def sweep(self) -> None:
        """Up to below the oldest event that nobody has delivered."""
        oldest = min((event.version.seconds for event in self.waiting), default=self.time + 1)
        watermark = Timestamp(oldest - 1, 0)
        self.pipeline.index.sweep(watermark, keep_seconds=FOREVER, more=lambda: True)

    def apply(self, batch: Iterable[Event]) -> None:
        changes: list[Change] = []
        for event in batch:
            changes += self.read(event) if isinstance(event, Page) else [event]
        self.pipeline.run(*changes)

    def read(self, page: Page) -> list[Change]:
        return [
            Upsert(key=key_of(page.collection, n), version=page.version, fields=f, snapshot=True)
            for n, f in self.db[page.collection].items()
        ]

    # --- what must hold -------------------------------------------------------------------

    @invariant()
    def what_is_settled_is_right(self) -> None:
        """Of documents for which nothing waits any more, the index shows the newest version."""
        if not any(isinstance(e, Floor | Page) for e in self.waiting):
            busy = {e.key for e in self.waiting if isinstance(e, Upsert | Delete)}
            self.sweep()
            self.compare(busy)

    def teardown(self) -> None:
        """Once all is delivered, the newest first, the index equals the database."""
        self.apply(reversed(self.waiting))
        self.waiting = []
        self.sweep()
        self.compare(set())

    def compare(self, but: set[Key]) -> None:
        wanted = {
            key_of(name, doc_id): (fields["text"].split(), {fields["tag"]})
            for name, documents in self.db.items()
            for doc_id, fields in documents.items()
            if not self.mapping or fields["tag"] == "x"
        }
        shown = {
            key: (" ".join(text for text, _, _ in told).split(), {m["tag"] for _, _, m in told})
            for key, (_, _, told) in seen(self.store, *self.db).items()
        }
        for key in but:
            wanted.pop(key, None)
            shown.pop(key, None)
        assert shown == wanted


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True
)
