"""From MongoDB's acknowledgement of a write until a search over HTTP shows it.

The figures include that search, and what looking costs: searching again and again takes time of the
cores that embed. So looks are few, of the cheapest kind (sparse: without the model), and each row
says how many there were and how long one took. Nothing is subtracted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from benchmarks.corpus import real_paragraphs
from benchmarks.parts import configuration
from syncline.assemble import load_embedder, make_chunker
from syncline.client import Client
from syncline.running import running
from transforms.text import plain_blocks

ROUNDS = 40
PARAGRAPHS = 120
POLL_SECONDS = 0.02
"""Between two looks. A look takes some 6 ms of one core, and of the interpreter's lock in the
process that it looks at: looking without a pause would measure the looking. Half of it is waited
in vain, on average."""
FIRST_LOOK = 0.8
"""The first look comes after this part of the shortest wait that was enough for such a write so
far: mostly too soon, so that writes seldom count as slower than they were."""


def measure(scratch: Path) -> dict[str, Any]:
    """Milliseconds by kind of write: median and 95th percentile; chunks embedded for each."""
    pool = real_paragraphs(PARAGRAPHS + 3 * ROUNDS)
    with running(scratch) as facts, Client(facts["http"]) as http:
        client: MongoClient[dict[str, Any]] = MongoClient(facts["mongo"])
        probe = _Probe(client["syncline"]["bench"], http, pool)
        probe.insert_long()
        kinds: dict[str, Callable[[int], float]] = {
            "insert": probe.insert,
            "paragraph edit": probe.edit,
            "metadata edit": probe.retag,
            "delete": probe.delete,
        }
        figures = {name: probe.rounds(kind) for name, kind in kinds.items()}
        client.close()
    figures["embedding alone"] = _embedding_alone(probe.versions)
    return figures


class _Probe:
    """One collection, and the writes that are timed on it."""

    def __init__(self, collection: Any, http: Client, pool: list[str]) -> None:
        self._collection = collection
        self._http = http
        self._pool = pool
        self._looks: list[float] = []
        self._waits: list[float] = []
        """How long after a write the look began that saw it."""
        self._body = pool[:PARAGRAPHS]
        self.versions = [self._text()]
        """Every text that the long document had."""

    def rounds(self, kind: Callable[[int], float]) -> dict[str, float]:
        before = self._embedded()
        self._looks.clear()
        self._waits.clear()
        times = [kind(n) for n in range(ROUNDS)]
        return {
            **_spread(times),
            "chunks": (self._embedded() - before) / ROUNDS,
            "looks": len(self._looks) / ROUNDS,
            "look_ms": 1000 * statistics.median(self._looks),
        }

    def insert_long(self) -> None:
        row = {"_id": "long", "title": "Long", "text": self._text(), "tag": "none"}
        self._collection.insert_one(row)
        self._seen(lambda: bool(self._hits("the", document_id="long")))

    def insert(self, n: int) -> float:
        word = f"insertword{n}q"
        text = f"{word} {self._pool[PARAGRAPHS + n]}"
        self._collection.insert_one({"_id": f"short{n}", "text": text})
        return self._seen(lambda: bool(self._hits(word, document_id=f"short{n}")))

    def edit(self, n: int) -> float:
        word = f"editword{n}q"
        self._body[(n * 37) % PARAGRAPHS] = f"{word} {self._pool[PARAGRAPHS + ROUNDS + n]}"
        self.versions.append(self._text())
        self._collection.update_one({"_id": "long"}, {"$set": {"text": self._text()}})
        return self._seen(lambda: bool(self._hits(word, document_id="long")))

    def retag(self, n: int) -> float:
        self._collection.update_one({"_id": "long"}, {"$set": {"tag": f"tag{n}"}})
        return self._seen(lambda: bool(self._hits("the", tag=f"tag{n}")))

    def delete(self, n: int) -> float:
        self._collection.delete_one({"_id": f"short{n}"})
        word = f"insertword{n}q"
        return self._seen(lambda: not self._hits(word, document_id=f"short{n}"))

    def _text(self) -> str:
        return "\n\n".join(self._body)

    def _hits(self, query: str, **where: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.search(
            query, limit=1, mode="sparse", filter=where
        )["hits"]
        return found

    def _embedded(self) -> int:
        total: int = self._http.status()["embedded_total"]
        return total

    def _seen(self, condition: Callable[[], bool]) -> float:
        written = time.perf_counter()
        time.sleep(FIRST_LOOK * min(self._waits, default=0.0))
        while True:
            began = time.perf_counter()
            seen = condition()
            ended = time.perf_counter()
            self._looks.append(ended - began)
            if seen:
                self._waits.append(began - written)
                return ended - written
            if ended - written > 60:
                raise TimeoutError("a write was not seen within a minute")
            time.sleep(POLL_SECONDS)


def _spread(seconds: list[float]) -> dict[str, float]:
    times = sorted(1000 * value for value in seconds)
    return {
        "median_ms": statistics.median(times),
        "p95_ms": times[int(0.95 * (len(times) - 1))],
    }


def _embedding_alone(versions: list[str]) -> dict[str, float]:
    """What the model itself takes for the chunks that each edit made new, one edit at a time."""
    config = configuration(Path("unused"))
    embedder = load_embedder(config)
    chunker = make_chunker(config, embedder)
    known: set[str] = set()
    times, counts = [], []
    for text in versions:
        inputs = {chunk.input for chunk in chunker.chunk("Long", tuple(plain_blocks(text)))}
        fresh = sorted(inputs - known)
        known |= inputs
        started = time.perf_counter()
        embedder.embed_documents(fresh)
        times.append(time.perf_counter() - started)
        counts.append(len(fresh))
    # The first is the whole document.
    return {**_spread(times[1:]), "chunks": statistics.mean(counts[1:])}
