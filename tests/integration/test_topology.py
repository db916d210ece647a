"""The distributed topology under faults: each of its processes is killed while documents change."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.running import running
from tests.integration.test_scenarios import HASH, Running, alive, eventually
from tests.workload import Workload

SEED = 20261123
OPTIONS = ("--with-pulsar", "--replicas", "2")
IMPATIENT = "from syncline import child, cli; child.HUNG_SECONDS = 6.0; cli.main()"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    for name, value in HASH.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SYNCLINE_VERIFY_EVERY_SECONDS", "1")
    impatient = running(tmp_path, *OPTIONS, program=("-c", IMPATIENT))
    with impatient as facts, Running(facts, tmp_path) as app:
        yield app


@pytest.mark.timeout(240)
def test_every_process_is_killed_in_turn_and_nothing_drifts(app: Running) -> None:
    """kill -9 of capture, both replicas and the broker under a mixed workload: zero drift.

    Also of the broker's guard, after which the broker must not live on; and a replica that hangs,
    which must not keep its partitions.
    """
    workload = Workload(app.db, SEED)
    workload.start()
    for name in ("capture", "index-0", "index-1", "broker"):
        workload.do(20)
        end(app, name, pid_of(app, name))
    workload.do(20)
    end(app, "broker", os.getpgid(pid_of(app, "broker")))
    workload.do(20)
    end(app, "index-1", pid_of(app, "index-1"), signal.SIGSTOP)
    workload.stop()
    app.settle(60)
    report = app.http.verify(deep=True, repair=False)
    assert report["in_sync"], (SEED, json.dumps(report)[:2000])


def test_a_dead_parent_leaves_no_process_behind(app: Running) -> None:
    """kill -9 of `syncline up` itself: all of its processes end by themselves."""
    pids = [pid_of(app, name) for name in ("capture", "index-0", "index-1", "broker")]
    os.kill(app.facts["pid"], signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids), 20)


def test_status_tells_of_every_process(app: Running) -> None:
    """`/v1/status` names each process, its pid and what it does."""
    processes = app.http.status()["processes"]
    assert set(processes) == {"capture", "index-0", "index-1", "broker"}
    assert all(alive(process["pid"]) for process in processes.values())


def test_one_process_compares_by_schedule(app: Running) -> None:
    """The one that owns the index, while others fill it; the replicas leave it to that one."""
    app.db.notes.insert_many([{"_id": n, "text": f"note {n}"} for n in range(50)])
    app.settle(60)
    eventually(lambda: (app.http.status()["verify"]["last"] or {}).get("documents", 0) >= 50)
    status = app.http.status()
    assert status["verify"]["last"]["counts"] == {}
    assert status["processes"]["index-0"]["verify"] == {
        "every_seconds": 0,
        "last": None,
        "problem": None,
    }


def end(app: Running, name: str, pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to `pid`, and wait until another process stands in the place of `name`."""
    before = pid_of(app, name)
    os.kill(pid, how)
    eventually(lambda: pid_of(app, name) not in (0, before), 60)
    assert not alive(before)


def pid_of(app: Running, name: str) -> int:
    """The process id as `/v1/status` tells it; 0 while it is not ready."""
    pid: int = app.http.status()["processes"][name].get("pid", 0)
    return pid
