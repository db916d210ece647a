"""What chunks look like: texts, inputs, heading paths, limits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from models.records import Block
from transforms.chunk import Chunker
from transforms.fragments import merge


class Words:
    """One token a word."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


class Bytes:
    """One token a byte, and one more where texts are joined: counts that do not add up."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.encode()) + text.count("\n\n") * 3 for text in texts]


def paragraphs(*texts: str) -> list[Block]:
    return [Block(kind="paragraph", text=text) for text in texts]


def heading(text: str, level: int = 1) -> Block:
    return Block(kind="heading", text=text, level=level)


def words(count: int, word: str = "w") -> str:
    return " ".join(f"{word}{number}" for number in range(count))


CHUNKER = Chunker(Words(), 40)  # 35 words, and 5 for the title


def test_a_short_document_is_one_chunk() -> None:
    """The text is the chunk, nothing added."""
    (chunk,) = CHUNKER.chunk("", paragraphs("Hello world."))
    assert (chunk.text, chunk.input, chunk.headings) == ("Hello world.", "Hello world.", ())


@pytest.mark.parametrize("texts", [(), ("",), (" ", "\n\t")])
def test_no_text_no_chunk(texts: tuple[str, ...]) -> None:
    """Emptying a document empties it, also where it has a title."""
    assert CHUNKER.chunk("Title", paragraphs(*texts)) == ()


def test_blocks_read_well() -> None:
    """Blank lines between blocks, dashes before items, code as it is."""
    blocks = [
        heading("Head"),
        *paragraphs("One."),
        Block(kind="list_item", text="a"),
        Block(kind="list_item", text="b", level=1),
        Block(kind="code", text="if x:\n    y"),
    ]
    (chunk,) = CHUNKER.chunk("", blocks)
    assert chunk.text == "Head\n\nOne.\n\n- a\n  - b\n\nif x:\n    y"


def test_the_title_is_before_the_first_chunk_only() -> None:
    """What the model reads begins with the title; no chunk's text and no cut depends on it."""
    blocks = paragraphs(words(30, "a"), words(30, "b"))
    plain, titled = CHUNKER.chunk("", blocks), CHUNKER.chunk(" The \n title ", blocks)
    assert [chunk.text for chunk in titled] == [chunk.text for chunk in plain]
    assert titled[0].input == f"The title\n\n{plain[0].text}"
    assert titled[1:] == plain[1:]


@pytest.mark.parametrize("title", ["Head", "Head line", "Head  line"])
def test_a_title_that_is_there_is_not_repeated(title: str) -> None:
    """A document that begins with its title keeps its input equal to its text."""
    (chunk,) = CHUNKER.chunk(title, [heading("Head line"), *paragraphs("Text.")])
    assert chunk.input == chunk.text


@pytest.mark.parametrize(
    ("tokenizer", "title", "head"),
    [(Words(), words(9), words(5)), (Bytes(), "x" * 99, "xxxxx"), (Bytes(), "a é👩‍👩‍👧", "a")],
)
def test_a_long_title_is_cut(tokenizer: Words | Bytes, title: str, head: str) -> None:
    """At its allowance: between words, else between graphemes."""
    (chunk,) = Chunker(tokenizer, 40).chunk(title, paragraphs("Text."))
    assert chunk.input == f"{head}\n\nText."


def test_headings_are_a_path() -> None:
    """Outermost first, without the chunk's own first heading; a sibling replaces its sibling."""
    long = words(30)
    blocks = [heading("A"), *paragraphs(long), heading("B", 2), *paragraphs(long)]
    blocks += [heading("C", 2), *paragraphs(long), *paragraphs(long + " end"), heading("D")]
    blocks += paragraphs(long)
    chunks = CHUNKER.chunk("", blocks)
    assert [chunk.text.split()[0] for chunk in chunks] == ["A", "B", "C", "w0", "D"]
    assert [chunk.headings for chunk in chunks] == [(), ("A",), ("A",), ("A", "C"), ()]


@pytest.mark.parametrize("length", [10, 33, 34, 35, 36, 60, 200])
def test_no_chunk_ends_with_a_heading(length: int) -> None:
    """A heading stays with what follows, also where that has to be cut for it."""
    for before in range(20, 36):
        blocks = [*paragraphs(words(before)), heading("Sub head", 2), heading("Subsub", 3)]
        chunks = CHUNKER.chunk("", [*blocks, *paragraphs(words(length, "z"))])
        assert all("z0" in chunk.text for chunk in chunks if "Sub head" in chunk.text)
        assert not any(chunk.text.endswith(("head", "Subsub")) for chunk in chunks)


def test_sentences_stay_whole() -> None:
    """A long paragraph is cut between sentences, also where no space follows them."""
    latin = [f"Sentence {number} has six words here." for number in range(30)]
    for chunk in CHUNKER.chunk("", paragraphs(" ".join(latin))):
        assert chunk.text.startswith("Sentence")
        assert chunk.text.endswith("here.")
    chinese = Chunker(Bytes(), 100).chunk("", paragraphs("这是一个句子。" * 40))
    assert all(chunk.text.endswith("。") for chunk in chinese)


def test_lines_of_code_stay_whole() -> None:
    """Code is cut between lines, and a line keeps its indentation."""
    line = "    call(a. b, c! d)"
    chunks = CHUNKER.chunk("", [Block(kind="code", text="\n".join([line] * 40))])
    assert len(chunks) > 1
    assert all(set(chunk.text.split("\n")) == {line} for chunk in chunks)


@pytest.mark.parametrize("grapheme", ["👩‍👩‍👧", "🇫🇷", "e\u0323\u0308", "नि", "각"])
def test_graphemes_stay_whole(grapheme: str) -> None:
    """A word without end is cut between graphemes only."""
    for chunk in Chunker(Bytes(), 64).chunk("", paragraphs(grapheme * 100)):
        assert chunk.text.replace(grapheme, "") == ""


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000,
        "漢" * 5_000,
        "👩" * 3_000,
        "\u200b" * 5_000,
        "a" + "\u0301" * 5_000,
        "a " * 5_000,
    ],
    ids=["word", "chinese", "emoji", "zero width", "one grapheme", "letters"],
)
@pytest.mark.parametrize("tokenizer", [Words(), Bytes()])
def test_every_input_fits(text: str, tokenizer: Words | Bytes) -> None:
    """No text makes a chunk too long, in tokens or in characters, and none is lost."""
    chunks = Chunker(tokenizer, 50).chunk("title", paragraphs(text, "and", text))
    assert max(tokenizer.count_tokens([chunk.input for chunk in chunks])) <= 50
    assert max(len(chunk.text) for chunk in chunks) <= 50 * 16
    joined = "".join("".join(chunk.text.split()) for chunk in chunks)
    assert joined == "".join(f"{text}and{text}".split())


def test_repeated_paragraphs() -> None:
    """Equal ranks are no special case: chunks are full and the limit holds."""
    chunks = CHUNKER.chunk("", paragraphs(*["The same five words again."] * 1_000))
    assert {len(chunk.text.split()) for chunk in chunks} <= {35, 20, 25, 30, 10, 5, 15}
    assert len(chunks) <= 1_000 / 7 + 1


def test_the_fingerprint_tells_limits_apart() -> None:
    """Another limit is another recipe."""
    assert CHUNKER.fingerprint != Chunker(Words(), 41).fingerprint
    with pytest.raises(ValueError, match="at least 8"):
        Chunker(Words(), 7)


def test_merge_takes_low_ranks_first() -> None:
    """The lowest boundary joins its neighbours, which then may be too large for the next."""
    assert merge([2, 2, 2, 2], [0, 3, 1, 2], limit=4) == [(0, 1), (1, 3), (3, 4)]
    assert merge([2, 2, 2, 2], [0, 1, 2, 3], limit=4) == [(0, 2), (2, 4)]
    assert merge([], [], limit=4) == []


def test_what_a_hostile_document_repeats_is_short() -> None:
    """Endless headings and endlessly nested lists do not multiply by the number of chunks."""
    items = [Block(kind="list_item", text="x", level=level) for level in range(5_000)]
    chunks = CHUNKER.chunk("", [heading("h" * 100_000), *items])
    assert max(len(name) for chunk in chunks for name in chunk.headings) <= 200
    assert max(len(chunk.text) for chunk in chunks) <= 40 * 16
