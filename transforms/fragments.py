"""Pieces of blocks, where they may be cut, and the merge that builds chunks of them.

Splitting and merging only; what a chunk looks like is in `chunk`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import regex

from models.records import Block

CHARS_PER_TOKEN = 16
"""A token counts for at least this many characters. Ordinary text has 2 to 6 and never notices;
it bounds the length of a chunk where a tokenizer makes one unknown token of a word of any length,
and tells that a text is too long without tokenising it."""

WINDOW = 64
"""Characters behind a boundary that give it its rank: few, so that an edit behind them leaves the
rank alone; enough to tell most boundaries of a document apart."""

_NOT_IN_GRAPHEME = r"(?![\p{M}\p{Grapheme_Extend}\u200d])"
_LINE = regex.compile(r"\n+" + _NOT_IN_GRAPHEME)
_SENTENCE = regex.compile(
    r"(?:[.!?…؟۔։።]+[\"')\]»”’]*\s+|[。！？｡।॥]+[」』”’）]*\s*)" + _NOT_IN_GRAPHEME
)
_WORD = regex.compile(r"\s+" + _NOT_IN_GRAPHEME)
_GRAPHEME = regex.compile(r"\X")
_CODE_POINT = regex.compile(r"(?s).")

_PROSE = (_SENTENCE, _LINE, _WORD, _GRAPHEME, _CODE_POINT)
_LINES = (_LINE, _WORD, _GRAPHEME, _CODE_POINT)

_RUN = 1 << 16
"""Pieces of one block that are joined at once: about 15 MB of memory. An edit moves the ends of the
runs behind it in the block, at the cost of one chunk in some hundreds."""

Piece = tuple[int, int, int]
"""Start, end and size of a part of a text."""

Measure = Callable[[Sequence[str]], list[int]]
"""Sizes of texts, in tokens; at least 1."""


class Fragment(NamedTuple):
    """`text[start:end]` of a block's text, and its size in tokens."""

    block: int
    start: int
    end: int
    size: int


def levels(block: Block) -> tuple[regex.Pattern[str], ...]:
    """Where a block may be cut, best first: each pattern's matches end where a cut may be."""
    return _LINES if block.kind in ("code", "table") else _PROSE


def split(
    text: str, patterns: Sequence[regex.Pattern[str]], limit: int, measure: Measure
) -> Iterator[Piece]:
    """Cut `text` into pieces of at most `limit`, at the best level possible.

    The pieces follow each other without gaps. Only a single code point may be larger. Of very many
    pieces a run at a time is held and joined.
    """
    spans = _spans(text, patterns[0])
    while run := list(islice(spans, _RUN)):
        sizes = measure([text[start:end] for start, end in run])
        pieces: list[Piece] = []
        for (start, end), size in zip(run, sizes, strict=True):
            if size <= limit or len(patterns) == 1:
                pieces.append((start, end, size))
            else:
                inner = split(text[start:end], patterns[1:], limit, measure)
                pieces.extend((start + a, start + b, n) for a, b, n in inner)
        yield from _joined(text, pieces, limit)


def _joined(text: str, pieces: Sequence[Piece], limit: int) -> Iterator[Piece]:
    ranks = [hashed(text[start : start + WINDOW]) for start, _, _ in pieces]
    for first, end in merge([size for _, _, size in pieces], ranks, limit):
        yield pieces[first][0], pieces[end - 1][1], sum(size for _, _, size in pieces[first:end])


def merge(sizes: Sequence[int], ranks: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Join neighbours, lowest-ranked boundary first, wherever both together are within `limit`.

    `ranks[i]` belongs to the boundary before item i (`ranks[0]` is not used). Returns the ranges
    of items that became one, in order. A refused boundary stays refused, because pieces only grow:
    any two neighbours together exceed `limit`.
    """
    total, first, last = list(sizes), list(range(len(sizes))), list(range(len(sizes)))
    for boundary in sorted(range(1, len(sizes)), key=ranks.__getitem__):
        left = first[boundary - 1]
        if total[left] + total[boundary] <= limit:
            total[left] += total[boundary]
            last[left] = last[boundary]
            first[last[boundary]] = left
    groups, start = [], 0
    while start < len(sizes):
        groups.append((start, last[start] + 1))
        start = last[start] + 1
    return groups


def hashed(text: str) -> int:
    """64 bits that are the same in every process."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


def batches(texts: Sequence[str], max_chars: int) -> Iterable[Sequence[str]]:
    """Cut `texts` into runs of about `max_chars` characters, so that memory stays bounded."""
    start = chars = 0
    for index, text in enumerate(texts):
        if chars and chars + len(text) > max_chars:
            yield texts[start:index]
            start, chars = index, 0
        chars += len(text) + 16
    if start < len(texts):
        yield texts[start:]


def _spans(text: str, pattern: regex.Pattern[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for match in pattern.finditer(text):
        if start < match.end() < len(text):
            yield start, match.end()
            start = match.end()
    yield start, len(text)
