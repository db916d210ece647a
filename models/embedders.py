"""Texts to vectors: the interface, sentence-transformers behind it, and a stand-in for tests.

Vectors are float32 of L2 norm 1, so that their dot product is the cosine. A text that is longer
than the model reads is refused, never cut.
"""

from __future__ import annotations

import copy
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.loading import DEFAULT_MODEL, load_model
from models.tokenizing import WORDS
from syncline.errors import Misconfigured, Rejected, Unavailable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]
Batch = tuple[list[int], Vectors]


class Unembeddable(Rejected):
    """Texts that the model cannot embed; `indices` are their places in the list given.

    Without them the call succeeds: nothing else is wrong.
    """

    def __init__(self, indices: Sequence[int], reason: str) -> None:
        super().__init__("embed", reason)
        self.indices = tuple(indices)


class Embedder(Protocol):
    """Makes vectors of texts. All calls may come from several threads at once."""

    @property
    def name(self) -> str:
        """Names the model in the recipe: the same on every machine."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""

    @property
    def max_tokens(self) -> int:
        """The longest text it reads, without special tokens and prompts."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, special ones and prompts not counted, never cut."""

    def embed_batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Batches of one model call each, in no order: places in `texts`, and their vectors.

        Vectors are `(len(batch), dimension) float32, L2 norm 1`. Raises `Unembeddable`: before
        anything is embedded if a text is longer than `max_tokens`, or instead of a batch of
        which a vector is not finite; batches handed out before stay good.
        """

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """`(len(texts), dimension) float32, L2 norm 1`, in order. Raises `Unembeddable`."""

    def embed_query(self, text: str) -> Vectors:
        """`(dimension,) float32, L2 norm 1`. What a query has beyond the model's limit is cut."""


class SentenceTransformerEmbedder:
    """A sentence-transformers model; `load` makes one."""

    def __init__(self, model: SentenceTransformer, *, name: str, batch_tokens: int) -> None:
        """`batch_tokens`: a batch has at most so many, padding included, or one text."""
        self._model = model
        self._batch_tokens = batch_tokens
        self._lock = Lock()
        # A tokenizer keeps truncation as state: counting has its own, which never truncates.
        self._counter: Any = copy.deepcopy(model.tokenizer)
        self._counter_lock = Lock()
        # The Rust tokenizer itself, where there is one: a third of the time of its wrapper.
        self._fast: Any = getattr(self._counter, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        self.name = name
        self.max_tokens = self._read_limit()
        self.dimension = int(self._encode(["dimension"]).shape[1])

    @classmethod
    def load(
        cls,
        name: str = DEFAULT_MODEL,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int | None = None,
    ) -> SentenceTransformerEmbedder:
        """The embedder for a model of the hub or a directory; see `models.loading.load_model`.

        `device`: auto, cpu, cuda, cuda:1, mps. `dtype`: auto, float32, bfloat16, float16.
        `batch_tokens`: default by device. Takes seconds. Raises `Misconfigured`.
        """
        if batch_tokens is not None and batch_tokens < 1:
            raise Misconfigured(f"batch_tokens = {batch_tokens}", "set it to 1 or more")
        loaded = load_model(name, device=device, dtype=dtype)
        return cls(loaded.model, name=loaded.name, batch_tokens=batch_tokens or loaded.batch_tokens)

    def tokenizer_text(self) -> str | None:
        """See `models.tokenizing.Portable`."""
        return None if self._fast is None else str(self._fast.to_str())

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Embedder`."""
        if not texts:
            return []
        with self._counter_lock:
            if self._fast is not None:
                encodings = self._fast.encode_batch_fast(
                    [_valid(text) for text in texts], add_special_tokens=False
                )
                return [len(encoding.ids) for encoding in encodings]
            encoded = self._counter(
                [_valid(text) for text in texts],
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        return [len(tokens) for tokens in encoded["input_ids"]]

    def embed_batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """See `Embedder`. The longest texts come first."""
        counts = self.count_tokens(texts)
        refuse_long(counts, self.max_tokens)
        for batch in pack(counts, self._batch_tokens):
            vectors = self._encode([_valid(texts[index]) for index in batch])
            bad = [index for index, v in zip(batch, vectors, strict=True) if not _is_unit(v)]
            if bad:
                raise Unembeddable(bad, f"{self.name} gives no finite vector for this text")
            yield batch, vectors

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        return _in_order(self, texts)

    def embed_query(self, text: str) -> Vectors:
        """See `Embedder`."""
        with self._lock:
            vector = self._model.encode_query([_valid(text)], **_ENCODE, batch_size=1)
        unit: Vectors = _normalised(vector)[0]
        if not _is_unit(unit):
            raise Unembeddable([0], f"{self.name} gives no finite vector for this query")
        return unit

    def _encode(self, texts: list[str]) -> Vectors:
        """One model call; halves it where the device has not enough memory."""
        import torch

        try:
            with self._lock:
                vectors = self._model.encode_document(texts, **_ENCODE, batch_size=len(texts))
        except torch.OutOfMemoryError as error:
            if len(texts) == 1:
                raise Unavailable("embedder", "not enough memory on its device") from error
        else:
            return _normalised(vectors)
        half = len(texts) // 2
        return np.concatenate([self._encode(texts[:half]), self._encode(texts[half:])])

    def _read_limit(self) -> int:
        """The model's limit less special tokens and the document prompt.

        One token is held back for a prompt, whose last may join the text's first differently.
        """
        limit = min(self._model.max_seq_length or _FALLBACK_LIMIT, _LARGEST_LIMIT)
        special = int(self._counter.num_special_tokens_to_add(pair=False))
        prompt = document_prompt(self._model)
        reserved = self.count_tokens([prompt])[0] + 1 if prompt else 0
        return int(limit) - special - reserved


_ENCODE: dict[str, Any] = {"convert_to_tensor": True, "show_progress_bar": False}
_FALLBACK_LIMIT = 512
# Tokenizers without a limit of their own state 10^30.
_LARGEST_LIMIT = 131_072


def document_prompt(model: SentenceTransformer) -> str:
    """What sentence-transformers puts before each document."""
    named = [*("document", "passage", "corpus"), model.default_prompt_name or ""]
    return next((model.prompts[name] for name in named if name in model.prompts), None) or ""


class HashEmbedder:
    """Hashed bags of words: similar where words are shared. For tests and measurements.

    Deterministic, and fast enough to show everything but the model. Feature hashing after
    Weinberger et al., 2009; tokens are words between spaces.
    """

    def __init__(self, dimension: int = 256, max_tokens: int = 256) -> None:
        self.name = f"hash-{dimension}"
        self.dimension = dimension
        self.max_tokens = max_tokens

    def tokenizer_text(self) -> str:
        """See `models.tokenizing.Portable`."""
        return WORDS

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Embedder`."""
        return [len(text.split()) for text in texts]

    def embed_batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """See `Embedder`. Batches of 64, in order."""
        refuse_long(self.count_tokens(texts), self.max_tokens)
        for start in range(0, len(texts), 64):
            batch = list(range(start, min(start + 64, len(texts))))
            yield batch, np.stack([self.embed_query(texts[index]) for index in batch])

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        return _in_order(self, texts)

    def embed_query(self, text: str) -> Vectors:
        """See `Embedder`."""
        vector = np.zeros(self.dimension, dtype=np.float32)
        for word in re.findall(r"\w+", text.casefold()) or [""]:
            vector[zlib.crc32(word.encode("utf-8", "replace")) % self.dimension] += 1.0
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def pack(counts: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places in `counts`, longest first, in batches of `longest * size <= batch_tokens`."""
    order = sorted(range(len(counts)), key=lambda index: -counts[index])
    while order:
        size = max(1, batch_tokens // max(1, counts[order[0]]))
        yield order[:size]
        order = order[size:]


def refuse_long(counts: Sequence[int], max_tokens: int) -> None:
    """Raises `Unembeddable` if a text is longer than the model reads."""
    long = [index for index, count in enumerate(counts) if count > max_tokens]
    if long:
        reason = f"a text of {counts[long[0]]:,} tokens; the model reads {max_tokens:,}"
        raise Unembeddable(long, reason)


def _in_order(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    vectors = np.empty((len(texts), embedder.dimension), dtype=np.float32)
    for batch, part in embedder.embed_batches(texts):
        vectors[batch] = part
    return vectors


def _normalised(tensor: Any) -> Vectors:
    """In float32 whatever the model's type, so that the norm is 1 in float32 as well."""
    vectors = tensor.float().cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / norms, dtype=np.float32)


def _is_unit(vector: Vectors) -> bool:
    return math.isclose(float(vector @ vector), 1.0, abs_tol=1e-3)


def _valid(text: str) -> str:
    """A lone surrogate can come in a JSON request; tokenizers take none."""
    return text.encode("utf-8", "replace").decode("utf-8")
