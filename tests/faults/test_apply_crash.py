"""A crash between any two writes of the apply step, and everything delivered again."""

from __future__ import annotations

import random

import pytest

from connectors.memory import MemoryStore
from models.records import Change, Floor, Version
from tests.pipeline import Pipeline, gone, paragraphs, put


class Crash(BaseException):
    """The process is gone."""


HISTORY: list[list[Change]] = [
    [put(1, (1, 1), text=paragraphs(40)), put(2, (1, 2), text="two", tag="a")],
    [put(1, (2, 1), text=paragraphs(40, p9="A zeppelin."), tag="b"), gone(2, (2, 2))],
    [put(3, (3, 1), "other", text=paragraphs(10)), put(1, (3, 2), text=paragraphs(3))],
    [Floor(collection="other", version=Version(4, 1)), put(4, (4, 2), "other", text="four")],
    [put(1, (5, 1), text=5), put(2, (5, 2), text="two again", tag="c")],
]


def undisturbed() -> Pipeline:
    pipeline = Pipeline()
    for batch in HISTORY:
        pipeline.run(*batch)
    return pipeline


def crash_after(store: MemoryStore, writes: int) -> None:
    left = iter(range(writes))

    def before(_operation: str) -> None:
        if next(left, None) is None:
            raise Crash

    store.before_write = before


def write_count() -> int:
    pipeline = Pipeline()
    operations: list[str] = []
    pipeline.store.before_write = operations.append  # type: ignore[attr-defined]
    for batch in HISTORY:
        pipeline.run(*batch)
    return len(operations)


@pytest.mark.parametrize("writes", range(write_count()))
def test_a_crash_between_any_two_writes_changes_nothing(writes: int) -> None:
    """Killed after n writes and started again at the batch that was in flight: same end, and the
    next change of a document removes what the crash had left of it."""
    pipeline = Pipeline()
    crash_after(pipeline.store, writes)  # type: ignore[arg-type]
    done = 0
    try:
        for batch in HISTORY:
            pipeline.run(*batch)
            done += 1
    except Crash:
        pass
    assert done < len(HISTORY), "it was to crash"
    pipeline.store.before_write = None  # type: ignore[attr-defined]
    restarted = Pipeline(pipeline.store)
    for batch in HISTORY[done:]:
        restarted.run(*batch)
    assert restarted.state() == undisturbed().state()
    restarted.run(put(1, (6, 1), text="six"), put(2, (6, 2), text="six"))
    restarted.run(put(3, (6, 3), "other", text="six"), put(4, (6, 4), "other", text="six"))
    assert restarted.orphans() == 0


@pytest.mark.parametrize("seed", range(20))
def test_everything_delivered_twice_and_out_of_order_ends_the_same(seed: int) -> None:
    """Shuffled and duplicated changes end where the ordered ones do.

    The version that fails is left out: which good one stands behind it is not fixed.
    """
    chaos = random.Random(seed)
    changes = [c for batch in HISTORY for c in batch if c.version != Version(5, 1)]
    ordered, disturbed = Pipeline(), Pipeline()
    ordered.run(*changes)
    deliveries = changes * 2
    chaos.shuffle(deliveries)
    while deliveries:
        size = chaos.randint(1, 4)
        disturbed.run(*deliveries[:size])
        deliveries = deliveries[size:]
    assert visible(disturbed) == visible(ordered), f"seed {seed}"


def visible(pipeline: Pipeline) -> dict[str, object]:
    """What readers see: live documents at or above their collection's floor."""
    hidden = pipeline.index.hidden_below(["notes", "other"])
    seen = {}
    for payload in pipeline.state().values():
        own = payload["syncline"]
        if own["kind"] != "entry" or own["state"] == "deleted":
            continue
        if Version(**own["version"]) >= hidden.get(own["collection"], Version(0, 0)):
            seen[own["key"]] = own
    return seen
