"""A comparison beside the flow: when it runs, what it tells, and that it is in nobody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from connectors.memory import MemoryStore
from models.ids import entry_id
from syncline import schedule
from syncline.errors import Misconfigured
from syncline.schedule import Verifier
from syncline.settings import Configuration, VerifySettings
from syncline.verification import Comparable, Pace
from tests.unit.test_verify import LONG, SHORT, World


class Beside:
    """A world with a verifier beside it, which compares as often as it may."""

    def __init__(self, **settings: Any) -> None:
        self.world = World()
        self.control = self.world.pipeline.control
        self.telemetry = self.world.pipeline.telemetry
        self.is_ready = self.is_mine = True
        worker = SimpleNamespace(
            config=Configuration(),
            index=self.world.index,
            steps=self.world.pipeline.steps,
            control=self.control,
            telemetry=self.telemetry,
            alive=True,
            applier=lambda: self.world.pipeline.applier,
            reader=lambda: self.world.database,
        )
        self.verifier = Verifier(
            cast(Comparable, worker),
            VerifySettings(every_seconds=1, **settings),
            lambda: nullcontext(cast(Comparable, worker)),
            ready=lambda: (self.is_ready, {}),
            is_mine=lambda: self.is_mine,
        )

    def sample(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(f"syncline_{name}", labels)

    def last(self) -> Any:
        return self.verifier.facts()["last"]

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.verifier:
            yield


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "RETRY_SECONDS", 0.01)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_drift_is_told_by_kind() -> None:
    """Metrics and status count what differs, kinds without drift as 0, and nothing is repaired."""
    beside = Beside()
    beside.world.index.delete([entry_id(LONG)])
    assert beside.sample("drift_documents", kind="missing") is None
    before = time.time()
    with capture_logs() as logs, beside.running():
        until(beside.last)
    assert beside.last()["counts"] == {"missing": 1}
    assert beside.sample("drift_documents", kind="missing") == 1
    assert beside.sample("drift_documents", kind="stale") == 0
    assert (beside.sample("verify_completed_timestamp_seconds") or 0) >= before
    assert (beside.sample("verify_seconds") or -1) >= 0
    assert {"event": "drift_found", "missing": 1, "log_level": "warning"} in logs
    assert beside.world.index.entries([LONG]) == {}


def test_it_repairs_where_asked() -> None:
    """`verify.repair` brings it back in line and counts it; `verify.deep` looks deeper."""
    beside = Beside(repair=True, deep=True)
    beside.world.rewrite_chunk(page_content="altered")
    with beside.running():
        until(beside.last)
    assert (beside.last()["in_sync"], beside.last()["repaired"]) == (True, 1)
    assert beside.sample("drift_repaired_total") == 1
    assert beside.world.verify(deep=True).found == {}


def test_it_goes_on_after_a_failure() -> None:
    """A store that is away is told and counted, and the next attempt completes."""
    beside = Beside()
    store = cast(MemoryStore, beside.world.index.store)
    store.refuse(1)
    with capture_logs() as logs, beside.running():
        until(beside.last)
    assert [log["event"] for log in logs] == ["verify_failed"]
    assert beside.sample("verify_failures_total") == 1
    assert beside.verifier.facts()["problem"] is None


def test_a_failure_is_in_the_status_until_one_succeeds() -> None:
    """Also one that was asked for; its error goes to who asked."""
    beside = Beside()
    cast(MemoryStore, beside.world.index.store).refuse(1)
    with pytest.raises(Exception, match="told to refuse"):
        beside.verifier(deep=False, repair=False)
    assert "told to refuse" in beside.verifier.facts()["problem"]
    assert beside.verifier(deep=False, repair=False)["in_sync"]
    assert beside.verifier.facts()["problem"] is None


def test_it_waits_until_the_index_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the flow has still to write is late and no drift, so nothing is compared before."""
    monkeypatch.setattr("syncline.verification.PATIENT_SECONDS", 0)
    monkeypatch.setattr(schedule, "PATIENT_SECONDS", 0)
    beside = Beside()
    beside.world.database.put("notes", _id="short", text="edited")
    asked: list[None] = []
    beside.world.database.on_time = lambda: asked.append(None)
    with beside.running():
        until(lambda: len(asked) >= 5)
        assert beside.last() is None
        beside.world.sync()
        until(beside.last)
    assert beside.last()["found"] == {}


@pytest.mark.parametrize("missing", ["is_ready", "is_mine"])
def test_it_compares_only_where_it_may(missing: str) -> None:
    """Not while the flow waits for something, and not where another replica does it."""
    beside = Beside()
    setattr(beside, missing, False)
    beside.world.database.on_time = lambda: pytest.fail("it was asked")
    assert beside.verifier._attempt() == schedule.POLL_SECONDS
    assert beside.last() is None


def test_who_gives_it_up_forgets() -> None:
    """A replica that no longer compares must not go on telling what it once found."""
    beside = Beside()
    beside.world.index.delete([entry_id(SHORT)])
    assert [beside.verifier._attempt() for _ in range(2)] == [schedule.POLL_SECONDS, 1]
    assert beside.sample("drift_documents", kind="missing") == 1
    beside.is_mine = False
    beside.verifier._attempt()
    assert beside.sample("drift_documents", kind="missing") is None
    assert beside.last() is None


def test_a_database_that_is_written_all_the_time_is_compared() -> None:
    """The index need not be at its very newest moment, which is past as soon as it is there."""
    beside = Beside()
    beside.verifier._attempt()
    beside.world.database.put("notes", _id="short", text="edited")
    beside.world.sync()
    beside.world.database.seconds += 1
    beside.verifier._attempt()
    assert beside.last() is not None


def test_a_stop_ends_it_at_once() -> None:
    """In the middle of a comparison as in the wait for the next, and it is no failure."""
    beside = Beside()
    begun = threading.Event()
    beside.world.database.on_time = begun.set
    with capture_logs() as logs, beside.running():
        assert begun.wait(10)
    assert not beside.verifier._thread.is_alive()
    assert [log for log in logs if log["event"] == "verify_failed"] == []


def test_by_default_there_is_no_schedule() -> None:
    """Reading a whole database again and again is for the operator to want."""
    beside = Beside()
    beside.verifier._settings = VerifySettings()
    with beside.running():
        assert not beside.verifier._thread.is_alive()


def test_a_comparison_rests_three_times_as_long_as_it_works() -> None:
    """`Pace` waits in proportion to the work since it last returned, and passes the stop on."""
    waited: list[float] = []

    def stop(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 3

    pace = Pace(stop, share=0.25)
    deadline = time.monotonic() + 0.02
    while time.monotonic() < deadline:
        pass
    assert not pace(0.0)
    assert waited[0] >= 0.06
    assert not pace(9.0)
    assert pace(0.0)
    assert waited[1] == 9.0 and waited[2] < 0.06


def test_an_index_flow_without_a_database_says_so() -> None:
    """The comparison needs `mongo.uri`, which the index flow can do without."""
    from syncline.indexing import IndexWorker

    with pytest.raises(Misconfigured, match=r"mongo\.uri"):
        IndexWorker.reader(cast(IndexWorker, SimpleNamespace(_mongo=None)))
