"""Cuts a document into chunks that a model can read at once and that survive edits.

Method. A document is a row of fragments: its blocks, or the sentences, lines, words or graphemes
of blocks that are too long. Every boundary between two of them has a rank that depends on nothing
but its kind (after a heading, between list items, between paragraphs, before a heading of level 6
to 1) and a hash of the text right behind it. Neighbours are joined, lowest-ranked boundary first,
wherever both together fit. What follows:

- *Stable.* Whether a boundary survives depends on its neighbours of lower rank, theirs on lower
  ones still; hashes are random, so a chain of k has odds of 1 to k!, and an edit fades out within
  a chunk or two on either side. Packing from the top shifts everything behind an edit.
- *Full.* A boundary survives only where both sides together exceed the limit, so two neighbouring
  chunks always do, and the mean chunk is fuller than half of it.
- *Sensible.* Sections stay together before paragraphs of different sections are joined, a heading
  is joined with what follows it before anything else, and no sentence is cut that fits.

Sources. Boundaries that depend on nearby content alone: Manber, "Finding similar files" (1994);
Muthitacharoen et al., "A low-bandwidth network file system" (LBFS, 2001). Hashes as priorities, so
that a structure depends on what it holds and not on how it came to be: Seidel and Aragon,
"Randomized search trees" (treaps, 1996); Auvolat and Taiani, "Merkle search trees" (2019). Joining
in order of rank: Kruskal (1956). Why influence fades: random sequential adsorption, Evans (1993).
The combination is ours; `python -m benchmarks.chunking` measures it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import regex

from models.records import Block, Chunk
from transforms.counting import CountCache, Tokenizer
from transforms.fragments import CHARS_PER_TOKEN, Fragment, batches, levels, merge, split
from transforms.layout import Layout

_VERSION = 1
_FINGERPRINT = regex.compile(rf"rank-{_VERSION}/(\d+)/\d+")
_MAX_TITLE_TOKENS = 32
_BATCH_CHARS = 500_000
"""Characters tokenised at once: a tokenizer keeps some hundred bytes for each token it found."""


def max_tokens_of(fingerprint: str) -> int | None:
    """`max_tokens` of the `Chunker` with this fingerprint; None if this version has none such."""
    found = _FINGERPRINT.fullmatch(fingerprint)
    return int(found[1]) if found else None


class Chunker:
    """Makes chunks of at most `max_tokens` tokens. Safe for threads if its tokenizer is.

    Pure but for the token counts that it remembers: what is left of a document after an edit is not
    tokenised again.

    `max_tokens` is the model's limit less its special tokens. A part of it is kept free in every
    chunk for the document's title, which is put before the first one only: so no cut depends on
    the title.
    """

    fingerprint: str
    """Names the algorithm and its parameters: equal means that chunks come out the same."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Raises ValueError if `max_tokens` is below 8."""
        if max_tokens < 8:
            raise ValueError(f"max_tokens must be at least 8, not {max_tokens}")
        self._tokenizer = CountCache(tokenizer)
        self._max_tokens = max_tokens
        self._allowance = min(_MAX_TITLE_TOKENS, max_tokens // 8)
        self._limit = max_tokens - self._allowance
        self.fingerprint = f"rank-{_VERSION}/{max_tokens}/{self._allowance}"

    def chunk(self, title: str, blocks: Sequence[Block]) -> tuple[Chunk, ...]:
        """The chunks of a document, in order; none if there is no text.

        Their texts hold every character of the blocks but white space once, in order; a list item
        also has its dash. No input has more than `max_tokens` tokens.
        """
        layout = Layout(blocks)
        groups = self._join(layout, self._fragments(layout), self._limit)
        chunks = [
            Chunk(text=text, input=text, headings=layout.paths[group[0].block])
            for group, text in self._checked(layout, groups, self._limit)
        ]
        return (self._titled(title, chunks[0]), *chunks[1:]) if chunks else ()

    def _fragments(self, layout: Layout) -> list[Fragment]:
        """The blocks; one that is too long, also for the headings it has to follow, in pieces."""
        fragments: list[Fragment] = []
        headings = 0
        for index, size in enumerate(self._sizes(layout.texts)):
            room = self._limit - headings if headings <= self._limit // 2 else self._limit
            headings = headings + size if layout.blocks[index].kind == "heading" else 0
            fragments.extend(
                self._cut(layout, Fragment(index, 0, len(layout.texts[index]), size), room)
            )
        return fragments

    def _cut(self, layout: Layout, whole: Fragment, limit: int) -> list[Fragment]:
        if whole.size <= limit:
            return [whole]
        text = layout.texts[whole.block][whole.start : whole.end]
        pieces = split(text, levels(layout.blocks[whole.block]), limit, self._sizes)
        return [Fragment(whole.block, whole.start + a, whole.start + b, n) for a, b, n in pieces]

    def _join(
        self, layout: Layout, fragments: Sequence[Fragment], limit: int
    ) -> list[Sequence[Fragment]]:
        sizes = [fragment.size for fragment in fragments]
        ranks = [layout.rank(fragment) for fragment in fragments]
        return [fragments[start:end] for start, end in merge(sizes, ranks, limit)]

    def _checked(
        self, layout: Layout, groups: Sequence[Sequence[Fragment]], limit: int
    ) -> Iterator[tuple[Sequence[Fragment], str]]:
        """The groups with their texts; one whose text has too many tokens is cut again.

        WordPiece counts add up over words, other tokenizers' only nearly do.
        """
        texts = [layout.text(group) for group in groups]
        for group, text, tokens in zip(groups, texts, self._tokens(texts), strict=True):
            if tokens <= self._limit or limit == 1:
                if text:
                    yield group, text
            else:
                less = max(1, limit * 3 // 4)
                pieces = [piece for whole in group for piece in self._cut(layout, whole, less)]
                yield from self._checked(layout, self._join(layout, pieces, less), less)

    def _titled(self, title: str, first: Chunk) -> Chunk:
        """The document's first chunk, its title before it in what the model reads."""
        title = " ".join(title.split())
        if not title or " ".join(first.text[: 2 * len(title)].split()).startswith(title):
            return first
        head = self._title_head(title, first.text)
        return first.model_copy(update={"input": f"{head}\n\n{first.text}"}) if head else first

    def _title_head(self, title: str, text: str) -> str:
        """As much of `title` as its allowance holds, whole words if there are any."""
        graphemes = regex.findall(r"\X", title[: CHARS_PER_TOKEN * self._allowance])

        def too_long(length: int) -> bool:
            head = "".join(graphemes[:length])
            own, both = self._tokens([head, f"{head}\n\n{text}"])
            return own > self._allowance or both > self._max_tokens

        if not too_long(len(graphemes)) and len("".join(graphemes)) == len(title):
            return title
        length = bisect_left(range(len(graphemes)), True, key=too_long) - 1
        head = "".join(graphemes[: max(length, 0)])
        return head.rpartition(" ")[0] or head

    def _sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, at least one for each CHARS_PER_TOKEN characters and at least 1."""
        sizes = [max(1, -(-len(text) // CHARS_PER_TOKEN)) for text in texts]
        short = [text for text, size in zip(texts, sizes, strict=True) if size <= self._limit]
        distinct = list(dict.fromkeys(short))
        tokens = dict(zip(distinct, self._tokens(distinct), strict=True))
        return [max(size, tokens.get(text, 0)) for text, size in zip(texts, sizes, strict=True)]

    def _tokens(self, texts: Sequence[str]) -> list[int]:
        return [
            count
            for batch in batches(texts, _BATCH_CHARS)
            for count in self._tokenizer.count_tokens(batch)
        ]
