"""`make soak`: random kills of real processes under a random workload, and nothing may drift.

    python -m tests.soak --topology direct --rounds 300 --seed 7 --json soak.json

Each round a process dies by SIGKILL at a random moment, also while it is still starting. Every few
rounds writes rest, the watermark passes the last one, and `verify --deep` must find no drift. At
the end all is killed once more: what comes back embeds nothing, and searches find exactly what the
database holds. A failure prints the seed and keeps the data directory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient

from syncline.local.mongo import LocalMongo, start_mongo
from tests.integration.test_scenarios import HASH, TOPOLOGIES, Running
from tests.sourcing import eventually
from tests.workload import COLLECTIONS, Workload

ROUNDS = {"direct": 300, "pulsar": 200}
VICTIMS = {
    "direct": ("up", "up", "up", "database", "both"),
    "pulsar": ("capture", "broker", "index-0", "index-1") * 4 + ("up", "database"),
}
LONGEST_PAUSE_SECONDS = 4.0
"""Between two kills. Starting takes some 2 s, so that many meet what is not yet ready."""
CHECK_EVERY = 10
READY_SECONDS = 60.0
SETTLE_SECONDS = 90.0
WORDS = 150
"""Of the words that are no longer in any document, about so many are searched at the end."""


class Drift(AssertionError):
    """The index is not what the database is."""


class Processes:
    """A database, and `syncline up` on it; both are started again after each kill."""

    def __init__(self, data_dir: Path, options: Sequence[str]) -> None:
        self._data_dir = data_dir
        self._command = [sys.executable, "-m", "syncline", "up", "--data-dir", str(data_dir)]
        self._command += ["--http-port", "0", *options]
        self._ready = data_dir / "ready.json"
        self._database = _start_database(data_dir)
        self.uri = self._database.uri
        self._up = self._start()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._up.terminate()
        try:
            self._up.wait(20)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
        self._database.stop()

    def kill(self, victim: str) -> None:
        """SIGKILL. It is started again, and not waited for."""
        self._check()
        if victim in ("up", "both"):
            self._up.kill()
            self._up.wait()
        if victim in ("database", "both"):
            _kill(self._data_dir / "mongo" / "mongo.pid")
            self._database.stop()
            self._database = _start_database(self._data_dir, urlsplit(self.uri).port or 0)
        if victim in ("up", "both"):
            self._up = self._start()
        if victim == "broker":
            _kill(self._data_dir / "pulsar" / "pulsar.pid")
        else:
            _kill(self._data_dir / "processes" / victim / f"{victim}.pid")

    @contextmanager
    def ready(self) -> Iterator[Running]:
        """As a context: it, once it is ready."""
        eventually(self._is_announced, READY_SECONDS)
        with Running(json.loads(self._ready.read_text()), self._data_dir) as app:
            yield app

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **HASH, "SYNCLINE_MONGO_URI": self.uri}
        with self._ready.open("wb") as ready, (self._data_dir / "up.log").open("ab") as log:
            return subprocess.Popen(self._command, stdout=ready, stderr=log, env=environment)

    def _is_announced(self) -> bool:
        self._check()
        return self._ready.read_bytes().endswith(b"\n")

    def _check(self) -> None:
        if (code := self._up.poll()) is not None:
            tail = (self._data_dir / "up.log").read_text(errors="replace").splitlines()[-20:]
            raise Drift("\n".join([f"`syncline up` ended by itself with {code}", *tail]))


def _start_database(data_dir: Path, port: int = 0) -> LocalMongo:
    """One that has on disk what it acknowledges, as a majority of a replica set has.

    By default the local one does not: killed, it forgets the last writes, also those that it has
    told of in its change stream.
    """
    return start_mongo(data_dir / "mongo", port, flags=["--sync-on-commit"])


def _kill(pid_file: Path) -> None:
    # None is there of a process that has not been started yet; the pid may be of one just dead.
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


class Soak:
    """One soak: kills, checks, and what came of it."""

    def __init__(self, topology: str, seed: int, data_dir: Path) -> None:
        self.kills: Counter[str] = Counter()
        self.checks = 0
        self._topology = topology
        self._random = random.Random(seed)
        self._processes = Processes(data_dir, TOPOLOGIES[topology])
        self._seed = seed

    def run(self, rounds: int, seconds: float) -> Mapping[str, Any]:
        """At most so many rounds and seconds. Raises `Drift`, with what differs."""
        began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._processes)
            client: MongoClient[dict[str, Any]] = MongoClient(self._processes.uri)
            stack.enter_context(client)
            workload = Workload(client["syncline"], self._seed)
            workload.start()
            stack.callback(workload.stop)
            with self._processes.ready():
                pass
            for n in range(1, rounds + 1):
                self._round(workload)
                if n % CHECK_EVERY == 0:
                    self._check(workload)
                    _say(f"{self._topology}: {n} kills, {workload.writes} writes, no drift")
                if time.monotonic() - began > seconds:
                    break
            with workload.at_rest():
                pass
            workload.stop()
            last = self._finish(workload)
        took = round(time.monotonic() - began, 1)
        return {
            "topology": self._topology,
            "seed": self._seed,
            "kills": dict(sorted(self.kills.items())),
            "checks": self.checks,
            "writes": workload.writes,
            "seconds": took,
            **last,
        }

    def _round(self, workload: Workload) -> None:
        time.sleep(self._random.uniform(0, LONGEST_PAUSE_SECONDS))
        victim = self._random.choice(VICTIMS[self._topology])
        # MongoDB renames and drops at once or not at all; the local database, killed within,
        # keeps half of it and writes no event.
        with workload.at_rest() if victim in ("database", "both") else nullcontext():
            self._processes.kill(victim)
        self.kills[victim] += 1

    def _check(self, workload: Workload) -> None:
        with self._processes.ready(), workload.at_rest(), self._processes.ready() as app:
            _verify(app)
        self.checks += 1

    def _finish(self, workload: Workload) -> Mapping[str, Any]:
        """Everything is written: kill it all once more, and compare searches too."""
        with self._processes.ready() as app:
            _verify(app)
        self._processes.kill("both")
        self.kills["both"] += 1
        with self._processes.ready() as app:
            documents = _verify(app)
            if embedded := app.embedded():
                raise Drift(f"{embedded} chunks were embedded by the last restart")
            searched = _compare_searches(app, workload.words)
        self.checks += 2
        return {"documents": documents, "embedded_by_last_restart": 0, "words_searched": searched}


def _verify(app: Running) -> int:
    """How many documents there are, all in sync."""
    app.settle(SETTLE_SECONDS)
    report = app.http.verify(deep=True, repair=False)
    if not report["in_sync"]:
        raise Drift(json.dumps(report, indent=1)[:4000])
    documents: int = report["documents"]
    return documents


def _compare_searches(app: Running, words: Sequence[str]) -> int:
    """Each word is found in exactly the documents that hold it."""
    holders: dict[str, set[tuple[str, str]]] = {}
    for name in COLLECTIONS:
        for document in app.db[name].find():
            for word in document["text"].split():
                holders.setdefault(word.strip("."), set()).add((name, str(document["_id"])))
    chosen = [*words[-WORDS // 2 :], *words[:: max(1, 2 * len(words) // WORDS)]]
    chosen += [word for word in words if word in holders][:WORDS]
    for word in dict.fromkeys(chosen):
        found = {(hit["collection"], hit["document_id"]) for hit in app.hits(word, "sparse")}
        if found != holders.get(word, set()):
            raise Drift(f"{word}: found in {found}, and is in {holders.get(word, set())}")
    return len(set(chosen))


def soak(topology: str, *, rounds: int, seconds: float, seed: int) -> Mapping[str, Any]:
    """Run one in a directory of its own, which is kept if it fails."""
    data_dir = Path(tempfile.mkdtemp(prefix="syncline-soak-"))
    run = Soak(topology, seed, data_dir)
    try:
        figures = run.run(rounds, seconds)
    except BaseException as error:
        done = sum(run.kills.values())
        _say(f"{topology}, seed {seed}, after {done} kills, data kept in {data_dir}: {error!r}")
        raise
    shutil.rmtree(data_dir, ignore_errors=True)
    return figures


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run what the command line asks for; 1 if anything drifted."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--topology", choices=[*TOPOLOGIES], help="default: each in turn")
    parser.add_argument("--rounds", type=int, help=f"kills, by default {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=1800, help="longest time for each")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    figures = []
    for topology in [options.topology] if options.topology else TOPOLOGIES:
        _say(f"{topology}: seed {options.seed}")
        rounds = options.rounds or ROUNDS[topology]
        try:
            figures.append(
                soak(topology, rounds=rounds, seconds=options.seconds, seed=options.seed)
            )
        except AssertionError:
            return 1
        _say(json.dumps(figures[-1]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
