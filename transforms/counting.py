"""Token counts that are remembered: of an edited document, most texts were counted before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from threading import Lock
from typing import Protocol

MAX_BYTES = 32_000_000
"""Of a cache: some 100,000 counts, the paragraphs and chunks of several hundred long documents."""
ENTRY_BYTES = 300
"""A key, its count and their place in a growing dict, as measured, rounded up."""


class Tokenizer(Protocol):
    """Counts as the model does."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, without special tokens."""


class CountCache:
    """A tokenizer that asks another one only for what it has not counted lately. Thread-safe.

    Texts are known by a 128-bit hash, so an entry's size does not depend on its text's. Two
    generations make the cache: what is used moves into the young one; when that has half of
    `max_bytes` it becomes the old one, and what was old and not used since is forgotten (the
    second-chance approximation of least recently used).
    """

    def __init__(self, tokenizer: Tokenizer, max_bytes: int = MAX_BYTES) -> None:
        self._tokenizer = tokenizer
        self._half = max(1, max_bytes // ENTRY_BYTES // 2)
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self._lock = Lock()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Tokenizer`. What is unknown is counted in one call; the same text once."""
        keys = [_key(text) for text in texts]
        counts = self._recall(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in counts}
        if missing:
            fresh = self._tokenizer.count_tokens(list(missing.values()))
            counts |= zip(missing, fresh, strict=True)
        with self._lock:
            self._keep(counts)
        return [counts[key] for key in keys]

    def _recall(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        with self._lock:
            young, old = self._young, self._old
            found = ((key, young.get(key, old.get(key))) for key in keys)
            return {key: count for key, count in found if count is not None}

    def _keep(self, counts: dict[bytes, int]) -> None:
        for key, count in counts.items():
            if len(self._young) >= self._half and key not in self._young:
                self._young, self._old = {}, self._young
            self._young[key] = count


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
