"""A crash before any write of a direct flow, and everything delivered again."""

from __future__ import annotations

import random
from typing import Any

import pytest

from connectors.memory import MemoryStore
from flows import acknowledge
from models.ids import key_of, single_id
from models.records import ALL_COLLECTIONS, Floor, Timestamp, Upsert, Version
from tests.crashing import HISTORY, Flow, kills, run_until_crash
from tests.pipeline import Pipeline
from tests.racing import seen
from tests.sourcing import fold

SEED = 20261124
FLUSHED = {"at-once": 0.0, "seldom": 1e9}


@pytest.fixture(autouse=True, params=[*FLUSHED.values()], ids=[*FLUSHED])
def flushed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How often the position is kept: after every step, or with the first and the last only."""
    monkeypatch.setattr(acknowledge, "FLUSH_SECONDS", request.param)
    monkeypatch.setattr(acknowledge, "SWEEP_EVERY_SECONDS", 0.0)
    seconds: float = request.param
    return seconds


def state(store: MemoryStore, start: int | None = None) -> dict[str, Any]:
    """Every point once the history has run, from where the index or `start` says: no orphans."""
    pipeline = Flow(store).run(start=start).pipeline
    assert pipeline.orphans() == 0
    return pipeline.state()


def test_a_crash_between_any_two_writes_changes_nothing() -> None:
    """Killed in the snapshot, in a batch, in an acknowledgement or a sweep: same end.

    The same ids, payloads and entries, position and floors. Killed before a write is killed after
    the one before it, so that both sides of each are tried.
    """
    undisturbed = state(MemoryStore())
    for killed in kills():
        assert state(killed.store) == undisturbed, killed.write


def test_a_restart_that_crashes_too_changes_nothing() -> None:
    """Killed again and again, before any write of the restarts: same end."""
    chaos, undisturbed = random.Random(SEED), state(MemoryStore())
    for killed in kills()[::3]:
        for _ in range(2):
            run_until_crash(killed.store, chaos.randrange(15, 40))
        assert state(killed.store) == undisturbed, killed.write


def test_a_position_that_lags_changes_nothing() -> None:
    """Started again at an earlier step, as where a broker delivers again: same end."""
    chaos, undisturbed = random.Random(SEED), state(MemoryStore())
    for killed in kills()[::2]:
        start = chaos.randrange(killed.done + 2)
        assert state(killed.store, start) == undisturbed, (killed.write, start)


def test_an_older_copy_of_the_index_catches_up() -> None:
    """A backup carries its own position: same end, and what has not changed is not embedded."""
    undisturbed = state(MemoryStore())
    for end in range(1, len(HISTORY)):
        restored = Flow(Flow(MemoryStore()).run(end=end).store).run()
        assert restored.pipeline.state() == undisturbed, f"step {end}"
    assert restored.embedded == 0, "the last step changes metadata only"


def test_a_lost_position_embeds_nothing() -> None:
    """All is read again by a new snapshot: the same documents, none embedded, none that is gone."""
    store = Flow(MemoryStore()).run().store
    changes = [change for step in HISTORY for change in step.changes]
    now, again = Version(20, 0), Pipeline(store)
    before, gone = seen(store), key_of("notes", 8)  # deleted while nobody looked
    store.delete([single_id("position")])
    pages = [
        Upsert(key=key, version=now, fields=fields, snapshot=True)
        for key, fields in fold(changes).items()
        if key != gone
    ]
    assert again.index.resumable_position() is None
    assert again.run(Floor(collection=ALL_COLLECTIONS, version=now), *pages) == 0
    again.index.sweep(Timestamp(20, 1), keep_seconds=1, more=lambda: True)
    assert seen(store) == {key: told for key, told in before.items() if key != gone}
