"""How fast a backfill is against the bare model, and a resync of unchanged documents."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.corpus import real_documents, real_paragraphs
from benchmarks.parts import configuration, local_mongo, run_until_settled
from models.embedders import SentenceTransformerEmbedder
from models.ids import key_of
from models.records import Upsert, Version
from syncline.assemble import load_embedder, make_chunker
from syncline.rules import MappingRule
from transforms.clean import clean
from transforms.map import map_document

BARE_CHUNKS = 200
"""Chunks that the bare model is measured on, spread over all."""


def chunk_inputs() -> list[str]:
    """What the model reads of the real documents."""
    config = configuration(Path("unused"))
    chunker = make_chunker(config, load_embedder(config))
    inputs: list[str] = []
    for document in real_documents():
        change = Upsert(key=key_of("real", document["_id"]), version=Version(1, 0), fields=document)
        mapped = map_document(change, MappingRule())
        if mapped is not None:
            inputs += [c.input for c in chunker.chunk(mapped.title, clean(mapped))]
    return list(dict.fromkeys(inputs))


def bare(inputs: list[str]) -> dict[str, float]:
    """`model.encode` alone, chunks/s by dtype and batch size, each in the library's own order."""
    step = max(1, len(inputs) // BARE_CHUNKS)
    texts = inputs[::step][:BARE_CHUNKS]
    rates = {}
    for dtype in ("float32", "auto"):
        model = SentenceTransformerEmbedder.load(dtype=dtype)._model
        for batch in (1, 8, 32):
            model.encode(texts[:8], batch_size=batch, show_progress_bar=False)
            started = time.perf_counter()
            model.encode(texts, batch_size=batch, show_progress_bar=False)
            rates[f"{dtype}, batch {batch}"] = len(texts) / (time.perf_counter() - started)
    return rates


def backfill(scratch: Path) -> dict[str, Any]:
    """All real documents through the whole flow into an empty index."""
    documents = real_documents()
    config = configuration(scratch)
    embedder = load_embedder(config)
    with local_mongo(scratch) as (uri, database):
        database["real"].insert_many(documents)
        seconds, worker = run_until_settled(config, uri, len(documents), embedder)
    embedded = worker.telemetry.embedded_total
    return {
        "documents": len(documents),
        "chunks": embedded,
        "seconds": seconds,
        "chunks_per_second": embedded / seconds,
    }


def resync(scratch: Path, documents: int = 5_000) -> dict[str, Any]:
    """Lose the position, read everything again: documents/s, and what it embedded."""
    config = configuration(scratch, "hash:384")
    rows = [{"_id": n, "text": text} for n, text in enumerate(real_paragraphs(documents))]
    with local_mongo(scratch) as (uri, database):
        database["real"].insert_many(rows)
        first, _ = run_until_settled(config, uri, documents)
        # Another scope is what a lost position is: everything is read again.
        again = config.model_copy(update={"mapping": {"unused": MappingRule()}})
        seconds, worker = run_until_settled(again, uri, documents)
    return {
        "documents": documents,
        "first_documents_per_second": documents / first,
        "documents_per_second": documents / seconds,
        "embedded": worker.telemetry.embedded_total,
    }


def best(rates: list[dict[str, float]]) -> tuple[str, float]:
    """The best way to call the bare model, by the mean of its measurements."""
    means = {name: statistics.mean(r[name] for r in rates) for name in rates[0]}
    name = max(means, key=lambda n: means[n])
    return name, means[name]
