"""Two writers on one index: one stalls at any of its calls, the other goes on, the first wakes.

A writer stalls when its machine or its collector does, or while it embeds; meanwhile its partition
belongs to another, which applies the same changes again and newer ones.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from connectors.index import Index
from connectors.memory import MemoryStore
from models.points import of_kind, read_chunk, read_entry
from models.records import Change, Floor, Timestamp, Version
from syncline.rules import MappingRule
from tests.pipeline import Pipeline, gone, paragraphs, put

Batches = Sequence[Sequence[Change] | Timestamp]
"""Changes that are applied together, or a watermark up to which is swept."""
LONG = paragraphs(12)
CUT = LONG.split("\n\nParagraph 6 ")[0]


class Stalling:
    """A store through which the n-th call waits until `meanwhile` has been done."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: list[str] = []
        self.stall_at = -1
        self.meanwhile: Callable[[], None] = lambda: None
        self.after_each: Callable[[], None] = lambda: None

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


def edit(at: tuple[int, ...], text: str = LONG, **fields: Any) -> Change:
    return put("doc", at, text=text, **fields)


BEFORE = [[edit((1, 1), tag="a")]]
FIRST = edit((2, 1), paragraphs(12, p3="A zeppelin."), tag="b")
LATER = edit((3, 1), paragraphs(12, p9="A balloon."), tag="a")
MARKDOWN = {"notes": MappingRule.model_validate({"content_type": "markdown"})}


def headed(title: str) -> str:
    """Its chunks differ by the headings above them, and by one that holds them."""
    return f"# {title}\n\n{paragraphs(8)}"


DROP = Floor(collection="notes", version=Version(3, 0))
SNAPSHOT = Floor(collection="*", version=Version(3, 0))
RACES = {
    "an edit, and a newer one": Race(BEFORE, [FIRST], [[LATER]]),
    "applied again, then a newer one": Race(BEFORE, [FIRST], [[FIRST], [LATER]]),
    "both at once": Race(BEFORE, [FIRST], [[FIRST, LATER]]),
    "chunks removed, and listed again": Race(
        BEFORE, [edit((2, 1), CUT)], [[edit((2, 1), CUT)], [edit((3, 1), tag="c")]]
    ),
    "chunks removed, and never gone": Race(BEFORE, [edit((2, 1), CUT)], [[edit((3, 1), tag="c")]]),
    "chunks added, and removed": Race(
        [[edit((1, 1), CUT)]], [edit((2, 1))], [[edit((2, 1))], [edit((3, 1), CUT)]]
    ),
    "a tag, and a newer one": Race(BEFORE, [edit((2, 1), tag="b")], [[edit((3, 1), tag="c")]]),
    "a tag, and back": Race(
        BEFORE, [edit((2, 1), tag="b")], [[edit((2, 1), tag="b")], [edit((3, 1), tag="a")]]
    ),
    "a tag, and back at once": Race(
        BEFORE, [edit((2, 1), tag="b")], [[edit((2, 1), tag="b"), edit((3, 1), tag="a")]]
    ),
    "an insert, and its tag back at once": Race(
        [],
        [edit((1, 1), tag="a"), edit((2, 1), tag="b")],
        [[edit((1, 1), tag="a")], [edit((2, 1), tag="b"), edit((3, 1), tag="a")]],
    ),
    "a tag from behind": Race(
        BEFORE,
        [edit((2, 1), tag="c"), edit((3, 1), tag="b")],
        [[edit((2, 1), tag="c")], [edit((3, 1), tag="b"), edit((4, 1), tag="c")]],
    ),
    "deleted meanwhile": Race(BEFORE, [FIRST], [[FIRST], [gone("doc", (3, 1))]]),
    "a delete, and a new document": Race(
        BEFORE, [gone("doc", (2, 1))], [[gone("doc", (2, 1))], [LATER]]
    ),
    "a failure, and a good one": Race(BEFORE, [edit((2, 1), text=7)], [[LATER]]),  # type: ignore[arg-type]
    "a good one, and a failure": Race(BEFORE, [FIRST], [[FIRST], [edit((3, 1), text=7)]]),  # type: ignore[arg-type]
    "a drop, and a new document": Race(
        BEFORE, [FIRST], [[Floor(collection="notes", version=Version(3, 0))], [LATER]]
    ),
    "a heading, and a newer one": Race(
        [[edit((1, 1), headed("Log"))]],
        [edit((2, 1), headed("Logs"))],
        [[edit((2, 1), headed("Logs")), edit((3, 1), headed("Book"))]],
    ),
    "a heading, and back at once": Race(
        [[edit((1, 1), headed("Log"))]],
        [edit((2, 1), headed("Logs"))],
        [[edit((2, 1), headed("Logs")), edit((3, 1), headed("Log"))]],
    ),
    "emptied": Race(BEFORE, [FIRST], [[FIRST], [edit((3, 1), text="")]]),
}


AHEAD = {
    "an edit ahead of a shortening": Race(BEFORE, [FIRST], [[edit((1, 5), CUT)]], True),
    "an edit ahead of the same": Race(
        BEFORE, [FIRST], [[edit((1, 5), paragraphs(12, p3="A zeppelin."))]], True
    ),
    "a tag ahead of an edit": Race(BEFORE, [edit((3, 1), tag="c")], [[FIRST]], True),
    "a tag ahead of a tag": Race(BEFORE, [edit((3, 1), tag="c")], [[edit((2, 1), tag="b")]], True),
    "an edit ahead of a tag": Race(BEFORE, [LATER], [[edit((2, 1), tag="b")]], True),
    "an insert ahead of an insert": Race([], [LATER], [[FIRST]], True),
    "an insert ahead of a delete": Race(BEFORE, [LATER], [[gone("doc", (2, 1))]], True),
    "a delete ahead of an edit": Race(BEFORE, [gone("doc", (3, 1))], [[FIRST]], True),
    "an edit while a snapshot is swept": Race(
        BEFORE, [edit((5, 1), tag="c")], [[SNAPSHOT], Timestamp(4, 0)], True
    ),
    "an edit while its drop is swept": Race(
        BEFORE, [edit((5, 1), tag="a")], [[DROP], Timestamp(4, 0)], True
    ),
    "an insert while orphans are swept": Race(
        [*BEFORE, [DROP]], [edit((5, 1), tag="a")], [Timestamp(4, 0)], True
    ),
}
BURIED = {
    "an insert, dropped": Race([], [FIRST], [[DROP], Timestamp(4, 0)]),
    "an edit, dropped": Race(BEFORE, [FIRST], [[DROP], Timestamp(4, 0)]),
    "an insert that a snapshot does not find": Race([], [FIRST], [[SNAPSHOT], Timestamp(4, 0)]),
    "an edit that a snapshot does not find": Race(BEFORE, [FIRST], [[SNAPSHOT], Timestamp(4, 0)]),
    "an edit before a snapshot": Race(
        BEFORE, [FIRST], [[SNAPSHOT], [edit((3, 0), tag="a")], Timestamp(4, 0)]
    ),
}


def seen(store: MemoryStore) -> dict[str, Any]:
    """What readers see of each document, without versions. Fails where a listed chunk is gone."""
    index = Index(store)
    chunks = {p.id: read_chunk(p.id, p.payload) for p in index.scroll(of_kind("chunk"))}
    hidden = index.hidden_below(["notes"]).get("notes", Version(0, 0))
    documents = {}
    for stored in index.scroll(of_kind("entry")):
        entry = read_entry(stored.payload)
        if entry.state == "deleted" or entry.version < hidden:
            continue
        assert {*entry.chunks} <= chunks.keys(), f"a hole in {entry.key} at {entry.version}"
        listed = [chunks[id_] for id_ in entry.chunks]
        documents[str(entry.key)] = (
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


def alone(batches: Batches) -> dict[str, Any]:
    """What one undisturbed writer makes of it."""
    memory = MemoryStore()
    apply(Pipeline(memory, MARKDOWN), batches)
    return seen(memory)


def undisturbed(store: Stalling, race: Race) -> Pipeline:
    """The first one, before it begins."""
    pipeline = Pipeline(store, MARKDOWN)  # type: ignore[arg-type]
    apply(pipeline, race.before)
    store.calls.clear()
    return pipeline


def places(races: dict[str, Race]) -> list[Any]:
    """Every call that the first one of each race makes, and the time after the last."""
    found = []
    for name, race in races.items():
        store = Stalling(MemoryStore())
        undisturbed(store, race).run(*race.first)
        found += [pytest.param(race, n, id=f"{name}, {n}") for n in range(len(store.calls) + 1)]
    return found


def run(race: Race, place: int, look: Callable[[MemoryStore], object]) -> None:
    """Run a race; `look` is called after each call that the first one makes once it is awake."""
    memory = MemoryStore()
    store = Stalling(memory)
    first, other = undisturbed(store, race), Pipeline(memory, MARKDOWN)
    store.stall_at, store.meanwhile = place, lambda: apply(other, race.other)
    store.after_each = lambda: look(memory)
    first.run(*race.first)
    if len(store.calls) <= place:
        store.meanwhile()
    assert seen(memory) == alone(race.history)


@pytest.mark.parametrize(("race", "place"), places(RACES))
def test_one_that_stalls_and_wakes_up_does_no_harm(race: Race, place: int) -> None:
    """From its waking on, after every single call, readers see what the newer change says."""
    wanted = alone(race.history)

    def look(memory: MemoryStore) -> None:
        assert seen(memory) == wanted

    run(race, place, look)


@pytest.mark.parametrize(("race", "place"), places(AHEAD))
def test_one_that_is_ahead_takes_what_the_other_left(race: Race, place: int) -> None:
    """What it planned to keep may be gone: no entry lists it, not for a moment."""
    run(race, place, seen)


@pytest.mark.parametrize(("race", "place"), places(BURIED))
def test_one_that_wakes_up_below_a_floor_leaves_nothing(race: Race, place: int) -> None:
    """What it commits below a floor that was swept meanwhile, it takes back itself."""
    run(race, place, lambda memory: None)


TANGLES = {
    "an edit and a tag": ([LATER], [edit((2, 1), tag="b")]),
    "a tag and an edit": ([edit((3, 1), tag="c")], [FIRST]),
    "a tag and a tag": ([edit((3, 1), tag="c")], [edit((2, 1), tag="b")]),
    "a tag and its way back": ([edit((3, 1), tag="a")], [edit((2, 1), tag="b")]),
    "a heading and its way back": (
        [edit((3, 1), headed("Log"))],
        [edit((2, 1), headed("Logs"))],
    ),
    "chunks listed again and removed": ([edit((3, 1), tag="b")], [edit((2, 1), CUT)]),
    "a delete and an edit": ([gone("doc", (3, 1))], [FIRST]),
}


def stalled_twice(
    one: Sequence[Change], two: Sequence[Change], places: tuple[int, int], wanted: dict[str, Any]
) -> bool:
    """`one` stalls, then `two` stalls, `one` wakes and ends, `two` wakes and ends.

    False where one of them ended before it was to stall.
    """
    memory = MemoryStore()
    apply(Pipeline(memory, MARKDOWN), [[edit((1, 1), headed("Log"), tag="a")]])
    stores = Stalling(memory), Stalling(memory)
    writers = [Pipeline(store, MARKDOWN) for store in stores]  # type: ignore[arg-type]
    has_stalled, may_wake = threading.Event(), threading.Event()

    def stall() -> None:
        has_stalled.set()
        assert may_wake.wait(60)

    def work() -> None:
        writers[1].run(*two)
        has_stalled.set()

    thread = threading.Thread(target=work)

    def let_two_begin() -> None:
        thread.start()
        assert has_stalled.wait(60)

    for store, place in zip(stores, places, strict=True):
        store.calls.clear()
        store.stall_at = place
    stores[0].meanwhile, stores[1].meanwhile = let_two_begin, stall
    stores[0].after_each = lambda: seen(memory)
    writers[0].run(*one)
    may_wake.set()
    if len(stores[0].calls) <= places[0]:
        return False
    thread.join(60)
    assert seen(memory) == wanted
    return len(stores[1].calls) > places[1]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", TANGLES)
def test_two_that_both_stall_end_with_the_newer(name: str, swapped: bool) -> None:
    """Whatever the calls at which they stall, the newer change is all that is seen at the end."""
    one, two = TANGLES[name][:: -1 if swapped else 1]
    newer = max(*one, *two, key=lambda change: change.version)
    wanted, counts = alone([[newer]]), [0, 0]
    for first in itertools.count():
        for second in itertools.count():
            counts[1] = max(counts[1], second)
            if not stalled_twice(one, two, (first, second), wanted):
                break
        if second == 0:
            break
        counts[0] = first
    assert min(counts) > 3


@pytest.mark.parametrize("place", range(9))
def test_a_version_that_says_two_things_leaves_no_hole(place: int) -> None:
    """A page of a snapshot is read twice, and differs: what comes last after all counts."""
    race = Race(BEFORE, [edit((2, 1), CUT)], [[edit((2, 1), CUT)], [edit((2, 1))]])
    memory = MemoryStore()
    store = Stalling(memory)
    first, other = undisturbed(store, race), Pipeline(memory, MARKDOWN)
    store.stall_at, store.meanwhile = place, lambda: apply(other, race.other)
    store.after_each = lambda: seen(memory)
    first.run(*race.first)
    assert len(store.calls) > place
    apply(other, race.other)
    assert seen(memory) == alone(race.other)


SWEEPS = {
    "a drop": Race([*BEFORE, [DROP]], [], [[edit((4, 1), tag="a")]]),
    "a drop, other chunks": Race([*BEFORE, [DROP]], [], [[edit((4, 1), CUT, tag="b")]]),
    "a snapshot": Race([*BEFORE, [SNAPSHOT]], [], [[edit((4, 1), tag="a")]]),
    "a tombstone": Race([*BEFORE, [gone("doc", (2, 1))]], [], [[edit((4, 1), tag="a")]]),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_that_stalls_and_wakes_up_does_no_harm(name: str) -> None:
    """What comes again while it stalls at any of its calls stays, and stays whole."""
    race, place = SWEEPS[name], 0
    while True:
        memory = MemoryStore()
        store = Stalling(memory)
        sweeping, other = undisturbed(store, race), Pipeline(memory, MARKDOWN)
        store.stall_at, store.meanwhile = place, lambda o=other: apply(o, race.other)  # type: ignore[misc]
        sweeping.index.sweep(Timestamp(1_004, 0), keep_seconds=1_000, more=lambda: True)
        if len(store.calls) <= place:
            break
        assert seen(memory) == alone(race.other), f"stalled at call {place}"
        place += 1
    assert place > 3
