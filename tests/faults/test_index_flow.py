"""Replicas and brokers of the index flow that die, stall and come back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from connectors.memory import MemoryStore
from connectors.pulsar_consumers import INBOX_BYTES
from connectors.pulsar_source import Limits
from connectors.store_server import StoreServer
from models.records import Delete, Upsert
from tests.brokers import PARTITIONS, Broker
from tests.indexing import (
    Contents,
    Publisher,
    Replica,
    beat,
    configure,
    contents,
    indexing,
    wait_for,
)
from tests.pipeline import MAX_TOKENS, Pipeline, gone, paragraphs, put


def edits(seed: int, first: int, count: int) -> list[Any]:
    """Edits and deletes of a few documents, each newer than the one before."""
    chance = random.Random(seed)
    changes: list[Any] = []
    for second in range(first, first + count):
        name = chance.randrange(40)
        if chance.random() < 0.15:
            changes.append(gone(name, (second, 1)))
        else:
            text = paragraphs(4, p2=f"Edited at {second}.")
            changes.append(put(name, (second, 1), text=text, tag=second))
    return changes


def direct(changes: Sequence[Any]) -> Contents:
    """What the direct path makes of them."""
    pipeline = Pipeline()
    pipeline.run(*changes)
    return contents(pipeline.store)


# --- replicas as processes --------------------------------------------------------------------


class Process:
    """`syncline index` as its users run it."""

    def __init__(self, broker: Broker, topic: str, store: Path, replica: int, home: Path) -> None:
        settings = {
            "PULSAR_URL": broker.url,
            "PULSAR_TOPIC": topic,
            "PULSAR_PLAIN_TOPICS": True,
            "PULSAR_PARTITIONS": PARTITIONS,
            "PULSAR_REPLICA": replica,
            "PULSAR_REPLICAS": 2,
            "QDRANT_URL": f"unix://{store}",
            "EMBEDDER_MODEL": "hash:64",
            "CHUNKER_MAX_TOKENS": MAX_TOKENS,
            "HTTP_PORT": 0,
            "LOCAL_DATA_DIR": home / f"replica-{replica}",
        }
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "syncline", "index"],
            env={**os.environ, **{f"SYNCLINE_{k}": str(v) for k, v in settings.items()}},
            stdout=subprocess.PIPE,
        )

    def wait_until_ready(self) -> None:
        """Its line on stdout has come."""
        assert self._popen.stdout is not None
        assert json.loads(self._popen.stdout.readline())["event"] == "ready"

    def kill(self) -> None:
        """SIGKILL; nothing is said or acknowledged."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self._popen.send_signal(number)
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        return self._popen.wait(15)


@contextlib.contextmanager
def served(store: MemoryStore, path: Path) -> Iterator[Path]:
    """The store, shared on a socket."""
    path.parent.mkdir(mode=0o700)
    server = StoreServer(store, path)
    server.start()
    try:
        yield path
    finally:
        server.stop()


def test_one_of_two_replicas_is_killed(
    own_broker: Broker, topic: str, topics: tuple[str, ...], tmp_path: Path
) -> None:
    """kill -9 in the middle of the work loses nothing: the other replica goes on with it."""
    changes = edits(1, 100, 600)
    expected = direct(changes)
    store = MemoryStore()
    with (
        served(store, tmp_path / "s" / "store") as path,
        Publisher(own_broker, topics) as publisher,
        contextlib.ExitStack() as stack,
    ):
        first, second = (Process(own_broker, topic, path, n, tmp_path) for n in range(2))
        stack.callback(second.kill)
        stack.callback(first.kill)
        for process in (first, second):
            process.wait_until_ready()
        publisher.send(*changes[:300])
        wait_for(lambda: len(contents(store)) > 5)
        second.kill()
        publisher.send(*changes[300:], beat(10**6))
        wait_for(lambda: contents(store) == expected, 60)
        assert first.stop() == 0


# --- replicas that stall ----------------------------------------------------------------------


class Stalling:
    """One replica's view of a store: once armed, its n-th write waits until it is released."""

    WRITES = frozenset({"upsert", "upsert_conditionally", "set_payload", "delete", "delete_where"})

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._left = 0
        self.stalled = threading.Event()
        self.released = threading.Event()

    def arm(self, writes: int) -> None:
        """Stall before the write that follows `writes` more."""
        self._left = writes + 1

    def __getattr__(self, name: str) -> Any:
        if name in self.WRITES:
            self._write()
        return getattr(self._store, name)

    def _write(self) -> None:
        if self._left == 1:
            self.stalled.set()
            assert self.released.wait(60)
        self._left = max(0, self._left - 1)


FIRST: list[Upsert | Delete] = [put(n, (100, n), text=paragraphs(4), tag=1) for n in range(6)]
SECOND: list[Upsert | Delete] = [
    put(0, (200, 0), text=paragraphs(4, p1="Changed by the second."), tag=1),
    put(1, (200, 1), text=paragraphs(4), tag=2),
    put(2, (200, 2), text=paragraphs(2), tag=2),
    gone(3, (200, 3)),
    put(4, (200, 4), text=paragraphs(4, p3="Changed by the second."), tag=2),
    put(6, (200, 6), text=paragraphs(3), tag=2),
]
THIRD: list[Upsert | Delete] = [
    put(0, (300, 0), text=paragraphs(4), tag=3),
    put(1, (300, 1), text=paragraphs(4, p2="Changed by the third."), tag=3),
    put(2, (300, 2), text=paragraphs(5), tag=3),
    put(3, (300, 3), text=paragraphs(4), tag=3),
    gone(4, (300, 4)),
    gone(6, (300, 6)),
]

LAST = put(1, (400, 1), text=paragraphs(4), tag=4)


@pytest.mark.parametrize("writes", range(6))
def test_a_replica_stalls_in_the_middle_of_an_apply(
    broker: Broker, topic: str, topics: tuple[str, ...], writes: int
) -> None:
    """It loses its partitions, another one goes on; when it wakes up nobody sees a difference."""
    store = MemoryStore()
    stalling: Any = Stalling(store)
    config = configure(broker, topic)
    with Publisher(broker, topics) as publisher, indexing(config, stalling) as one:
        publisher.send(*FIRST)
        one.wait_for_contents(direct(FIRST))
        stalling.arm(writes)
        try:
            publisher.send(*SECOND)
            assert stalling.stalled.wait(20)
            one.lose_partitions()
            with indexing(config, store) as other:
                publisher.send(*THIRD)
                expected = direct([*FIRST, *SECOND, *THIRD])
                other.wait_for(lambda: contents(store) == expected)
                stalling.released.set()
                one.control.request_stop()
                while one.alive:
                    assert contents(store) == expected
                assert contents(store) == expected
                publisher.send(*SECOND, put(1, (400, 1), text=paragraphs(4), tag=4))
                last = direct(
                    [*FIRST, *SECOND, *THIRD, put(1, (400, 1), text=paragraphs(4), tag=4)]
                )
                other.wait_for(lambda: contents(store) == last)
        finally:
            stalling.released.set()


# --- the broker -------------------------------------------------------------------------------


def test_the_broker_is_killed_and_comes_back(
    own_broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """Twice in the middle of the work of two replicas: it is waited for, and nothing is missing."""
    changes = edits(2, 100, 900)
    expected = direct(changes)
    store = MemoryStore()
    first, second = (configure(own_broker, topic, replica=n, replicas=2) for n in range(2))
    with indexing(first, store) as one, indexing(second, store) as other:
        for start in range(0, 900, 300):
            seen = one.control.received + other.control.received
            with Publisher(own_broker, topics) as publisher:
                publisher.send(*changes[start : start + 300])
            one.wait_for(partial(_have_received, (one, other), seen + 1))
            if start < 600:
                own_broker.kill()
                one.wait_for(lambda: one.control.waiting and other.control.waiting)
                own_broker.restart()
        one.wait_for(lambda: contents(store) == expected, 40)
        wait_for(lambda: not one.control.waiting and not other.control.waiting)


def _have_received(replicas: Sequence[Replica], changes: int) -> bool:
    return sum(replica.control.received for replica in replicas) >= changes


def test_a_backlog_stays_with_the_broker(
    own_broker: Broker, topic: str, topics: tuple[str, ...]
) -> None:
    """While the index is away, only so much is read as fits into the inbox, and then all."""
    store = MemoryStore()
    size, count = 100_000, 1_500
    with Publisher(own_broker, topics) as publisher:
        for start in range(0, count, 100):
            names = range(start, start + 100)
            publisher.send(*(put(n, (5, n), text=str(n), raw=b"x" * size) for n in names))
        with indexing(configure(own_broker, topic), store) as flow:
            store.refuse(10**9)
            flow.wait_for(lambda: flow.control.received)
            read = _settled(lambda: flow.control.received)
            assert read * size < INBOX_BYTES + Limits().batch_bytes + 20 * size * PARTITIONS
            store.refuse(0)
            flow.wait_for(lambda: flow.index.counts().indexed == count, 40)


def _settled(count: Callable[[], int]) -> int:
    """A number once it has not changed for a second."""
    seen, since = -1, time.monotonic()
    while time.monotonic() < since + 1.0:
        if (now := count()) != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.01)
    return seen
