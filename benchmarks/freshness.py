"""From MongoDB's acknowledgement of a write until a search over HTTP shows it."""

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

ROUNDS = 20
PARAGRAPHS = 120
POLL_SECONDS = 0.005
"""Between two looks."""
FIRST_LOOK = 0.7
"""Searching slows down what it waits for, on few cores by half. So the first look comes after this
part of what the write before took; a write seen at the first look counts as that long."""


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
        self._pause = 0.0
        self._body = pool[:PARAGRAPHS]
        self.versions = [self._text()]
        """Every text that the long document had."""

    def rounds(self, kind: Callable[[int], float]) -> dict[str, float]:
        before = self._embedded()
        times = []
        self._pause = 0.0
        for n in range(ROUNDS):
            seconds = kind(n)
            times.append(1000 * seconds)
            self._pause = FIRST_LOOK * seconds
        times.sort()
        return {
            "median_ms": statistics.median(times),
            "p95_ms": times[int(0.95 * (len(times) - 1))],
            "chunks": (self._embedded() - before) / ROUNDS,
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
        return self._seen(lambda: any(word in hit["text"] for hit in self._hits(word)))

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
            query, limit=1, mode="sparse" if query != "the" else "dense", filter=where
        )["hits"]
        return found

    def _embedded(self) -> int:
        total: int = self._http.status()["embedded_total"]
        return total

    def _seen(self, condition: Callable[[], bool]) -> float:
        started = time.perf_counter()
        time.sleep(self._pause)
        while not condition():
            if time.perf_counter() - started > 60:
                raise TimeoutError("a write was not seen within a minute")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started


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
        times.append(1000 * (time.perf_counter() - started))
        counts.append(len(fresh))
    edits, fresh_counts = sorted(times[1:]), counts[1:]
    return {
        "median_ms": statistics.median(edits),
        "p95_ms": edits[int(0.95 * (len(edits) - 1))],
        "chunks": statistics.mean(fresh_counts),
    }
