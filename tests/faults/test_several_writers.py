"""Two writers on one index: one stalls at any of its calls, the other goes on, the first wakes.

A writer stalls when its machine or its collector does, or while it embeds; meanwhile its partition
belongs to another, which applies the same changes again and newer ones.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from connectors.memory import MemoryStore
from models.records import Change, Floor, Key, Timestamp, Version
from tests.pipeline import Pipeline, gone, paragraphs, put
from tests.racing import MARKDOWN, Batches, Race, Stalling, alone, apply, seen, undisturbed

LONG = paragraphs(12)
CUT = paragraphs(6)


def edit(at: tuple[int, ...], text: str = LONG, **fields: Any) -> Change:
    return put("doc", at, text=text, **fields)


BEFORE: Batches = [[edit((1, 1), tag="a")]]
FIRST = edit((2, 1), paragraphs(12, p3="A zeppelin."), tag="b")
LATER = edit((3, 1), paragraphs(12, p9="A balloon."), tag="a")


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


TANGLES: dict[str, tuple[Sequence[Change], Sequence[Change]]] = {
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
    one: Sequence[Change], two: Sequence[Change], places: tuple[int, int], wanted: dict[Key, Any]
) -> bool:
    """`one` stalls, then `two` stalls, `one` wakes and ends, `two` wakes and ends.

    False where one of them ended before it was to stall.
    """
    memory = MemoryStore()
    apply(Pipeline(memory, MARKDOWN), [[edit((1, 1), headed("Log"), tag="a")]])
    stores = Stalling(memory), Stalling(memory)
    writers = [Pipeline(store, MARKDOWN) for store in stores]
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
    one, two = TANGLES[name]
    if swapped:
        one, two = two, one
    newer = max([*one, *two], key=lambda change: change.version)
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


TWICE = {"a page that is read twice": Race(BEFORE, [edit((2, 1), CUT)], [[edit((2, 1))]])}


@pytest.mark.parametrize(("race", "place"), places(TWICE))
def test_a_version_that_says_two_things_leaves_no_hole(race: Race, place: int) -> None:
    """Chunks that the second reading lists again, the first one does not remove."""
    memory = MemoryStore()
    store = Stalling(memory)
    first, other = undisturbed(store, race), Pipeline(memory, MARKDOWN)
    again: Batches = [race.first, *race.other]
    store.stall_at, store.meanwhile = place, lambda: apply(other, again)
    store.after_each = lambda: seen(memory)
    first.run(*race.first)
    apply(other, again)
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
        store.stall_at, store.meanwhile = place, partial(apply, other, race.other)
        sweeping.index.sweep(Timestamp(1_004, 0), keep_seconds=1_000, more=lambda: True)
        if len(store.calls) <= place:
            break
        assert seen(memory) == alone(race.other), f"stalled at call {place}"
        place += 1
    assert place > 3
