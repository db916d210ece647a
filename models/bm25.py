"""BM25 as sparse vectors: Qdrant's own encoder, with words made for scripts that have no spaces.

The stored weights are BM25's term frequency part; the index multiplies them with IDF. Decided in
docs/decisions/0004-bm25.md.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import pairwise

from qdrant_edge import Bm25, Bm25Config, SparseVector, StopwordsSet, TokenizerType

SparseTerms = tuple[tuple[int, ...], tuple[float, ...]]

_AVERAGE_WORDS = 128.0
"""Words in an average chunk: half of the 256 tokens that the default model reads."""

_UNSPACED = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u109f\u1780-\u17d3]+"  # Thai, Lao, Myanmar, Khmer
)


def encode_document(text: str) -> SparseTerms:
    """`(indices, values)` of a text to be found: distinct u32 in ascending order, weights > 0.

    Any text has an encoding; one without words has an empty one. The same in every process.
    """
    return _terms(_encoder(stopwords=False).embed_document(_spaced(text, query=False)))


def encode_query(text: str) -> SparseTerms:
    """`(indices, values)` of a search, each value 1.

    English stop words count only where a query has nothing else ("to be or not to be").
    """
    words = _spaced(text, query=True)
    terms = _terms(_encoder(stopwords=True).embed_query(words))
    return terms if terms[0] else _terms(_encoder(stopwords=False).embed_query(words))


@cache
def _encoder(*, stopwords: bool) -> Bm25:
    return Bm25(
        Bm25Config(
            tokenizer=TokenizerType.Word,
            language="english",
            stopwords=None if stopwords else StopwordsSet(languages=set(), custom=set()),
            ascii_folding=True,
            avg_len=_AVERAGE_WORDS,
        )
    )


def _terms(vector: SparseVector) -> SparseTerms:
    weights: dict[int, float] = {}
    for index, value in zip(vector.indices, vector.values, strict=True):
        weights[index] = weights.get(index, 0.0) + value
    return tuple(sorted(weights)), tuple(weights[index] for index in sorted(weights))


def _spaced(text: str, *, query: bool) -> str:
    """NFKC, with each run of an unspaced script as overlapping pairs of characters.

    A document also gets the single characters, so that one can be searched for; a query gets
    them only where it has no pair. Overlapping bigrams as in Lucene's CJK analysis.
    """
    if text.isascii():
        return text
    # A lone surrogate can come in a JSON request; the encoder takes none.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return _UNSPACED.sub(
        lambda run: _pairs(run[0], query=query), unicodedata.normalize("NFKC", whole)
    )


def _pairs(run: str, *, query: bool) -> str:
    letters: list[str] = []
    for character in run:
        if letters and unicodedata.category(character).startswith("M"):
            letters[-1] += character
        else:
            letters.append(character)
    pairs = [first + second for first, second in pairwise(letters)]
    return f" {' '.join((pairs or letters) if query else letters + pairs)} "
