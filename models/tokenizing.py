"""Tokenizers that count without their model, and travel to other processes as a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from syncline.errors import Misconfigured

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

WORDS = "words"
"""The text of the tokenizer whose tokens are words between spaces."""


class Counter(Protocol):
    """Counts as a model does."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, without special tokens, never cut."""


@runtime_checkable
class Portable(Protocol):
    """Has a tokenizer that can travel."""

    def tokenizer_text(self) -> str | None:
        """What `tokenizer_of` makes an equal one from: Hugging Face's `tokenizer.json`, or
        `WORDS`. None where the model's tokenizer has no such form."""


class WordTokenizer:
    """Words between spaces."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Counter`."""
        return [len(text.split()) for text in texts]


class FastTokenizer:
    """A tokenizer of the library `tokenizers`, which needs neither torch nor transformers."""

    def __init__(self, tokenizer: RustTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Counter`."""
        valid = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encodings = self._tokenizer.encode_batch_fast(valid, add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]


def tokenizer_of(text: str) -> Counter:
    """The tokenizer that `text` describes (see `Portable`)."""
    if text == WORDS:
        return WordTokenizer()
    from tokenizers import Tokenizer

    return FastTokenizer(Tokenizer.from_str(text))


def portable_text(embedder: object) -> str:
    """What describes the tokenizer of `embedder`. Raises `Misconfigured` where it has no form."""
    text = embedder.tokenizer_text() if isinstance(embedder, Portable) else None
    if text is None:
        raise Misconfigured(
            "flow.processes: the model's tokenizer cannot be used by other processes",
            "set flow.processes to 0, or choose a model that has a tokenizer.json",
            code="model_unusable",
        )
    return text
