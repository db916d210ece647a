"""The cache of token counts: right, bounded, asked once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from transforms.counting import ENTRY_BYTES, CountCache


class Words:
    """One token a word; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.asked.append(list(texts))
        return [len(text.split()) for text in texts]


def test_only_what_is_new_is_counted() -> None:
    """One call for what is unknown, each text once; none when all is known; order is kept."""
    words = Words()
    cache = CountCache(words)
    assert cache.count_tokens(["a b", "a", "a b", ""]) == [2, 1, 2, 0]
    assert cache.count_tokens(["a", "a b c", "", "\ud800"]) == [1, 3, 0, 1]
    assert cache.count_tokens(["a b c", "a b"]) == [3, 2]
    assert words.asked == [["a b", "a", ""], ["a b c", "\ud800"]]


def test_what_is_used_stays() -> None:
    """A text in use is never counted again, however many others come; one that is not, is."""
    words = Words()
    cache = CountCache(words, max_bytes=20 * ENTRY_BYTES)
    cache.count_tokens(["unused"])
    for n in range(200):
        cache.count_tokens(["used", f"other {n}"])
    cache.count_tokens(["unused"])
    asked = [text for texts in words.asked for text in texts]
    assert asked.count("used") == 1
    assert asked.count("unused") == 2


def test_memory_is_bounded() -> None:
    """Ten times what fits is counted, at once and bit by bit: the bound in bytes holds."""
    limit = 1_000_000
    cache = CountCache(Words(), max_bytes=limit)
    texts = [f"{n} " * 300 for n in range(10 * limit // ENTRY_BYTES)]
    tracemalloc.start()
    try:
        for start in range(0, len(texts), 1_000):
            cache.count_tokens(texts[start : start + 1_000])
            assert tracemalloc.get_traced_memory()[0] < limit + 1_000 * ENTRY_BYTES
    finally:
        tracemalloc.stop()


def test_threads_share_a_cache() -> None:
    """Threads that push out each other's counts all get the right ones."""
    cache = CountCache(Words(), max_bytes=30 * ENTRY_BYTES)

    def count(seed: int) -> bool:
        lengths = [(seed * n) % 41 for n in range(400)]
        return cache.count_tokens(["w " * length for length in lengths]) == lengths

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(count, range(200)))
