"""The distributed topology under faults: each of its processes is killed while documents change."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncline.running import running
from tests.integration.test_scenarios import HASH, Running, alive, eventually
from tests.pipeline import paragraphs

SEED = 20261123


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    for name, value in HASH.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SYNCLINE_VERIFY_EVERY_SECONDS", "1")
    options = ("--with-pulsar", "--replicas", "2")
    with running(tmp_path, *options) as facts, Running(facts, tmp_path) as app:
        yield app


def test_every_process_is_killed_in_turn_and_nothing_drifts(app: Running) -> None:
    """kill -9 of capture, both replicas and the broker under a mixed workload: zero drift."""
    workload = Workload(app.db)
    workload.start()
    for name in ("capture", "index-0", "index-1", "broker", "capture", "index-1"):
        workload.do(20)
        kill(app, name)
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


def kill(app: Running, name: str) -> None:
    """kill -9, and wait until another process stands in its place."""
    before = pid_of(app, name)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pid_of(app, name) not in (0, before), 60)


def pid_of(app: Running, name: str) -> int:
    """The process id as `/v1/status` tells it; 0 while it is not ready."""
    pid: int = app.http.status()["processes"][name].get("pid", 0)
    return pid


class Workload(threading.Thread):
    """Inserts, edits, metadata edits, deletes and drops, in a seeded order, until stopped."""

    def __init__(self, db: Any) -> None:
        super().__init__(daemon=True)
        self.rounds = 0
        self._db = db
        self._random = random.Random(SEED)
        self._over = threading.Event()

    def run(self) -> None:
        actions: list[Callable[[], Any]] = [self._put] * 6 + [self._retag] * 3 + [self._delete]
        for n in itertools.count():
            if self._over.wait(0.005):
                return
            self._random.choice(actions)()
            if n % 150 == 149:
                self._db["fleeting"].drop()
            self.rounds = n

    def do(self, rounds: int) -> None:
        """Wait until so many more are done."""
        before = self.rounds
        eventually(lambda: self.rounds > before + rounds)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _put(self) -> None:
        name = self._random.choice(("notes", "notes", "fleeting"))
        text = paragraphs(self._random.randrange(1, 40), p0=f"Edit {self._random.random()}.")
        self._db[name].replace_one({"_id": self._id()}, {"text": text, "tag": "t0"}, upsert=True)

    def _retag(self) -> None:
        tag = f"t{self._random.randrange(5)}"
        self._db["notes"].update_one({"_id": self._id()}, {"$set": {"tag": tag}})

    def _delete(self) -> None:
        self._db["notes"].delete_one({"_id": self._id()})

    def _id(self) -> int:
        return self._random.randrange(60)
