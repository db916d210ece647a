"""What `clean` makes of text, Markdown and HTML, good and bad."""

from __future__ import annotations

import pytest

from models.records import Block, ContentType, Document, Key, Part
from syncline.errors import Rejected
from transforms.clean import clean


def cleaned(content: str | bytes, content_type: ContentType = "text") -> list[tuple[str, str]]:
    part = Part(content_type=content_type, content=content)
    document = Document(key=Key("c", '"1"'), title="t", parts=(part,), metadata={})
    return [(block.kind, block.text) for block in clean(document)]


def test_parts_follow_each_other() -> None:
    """Every part is read as its own type, in order."""
    parts = (
        Part(content_type="text", content="# plain"),
        Part(content_type="markdown", content="# marked"),
    )
    document = Document(key=Key("c", '"1"'), title="", parts=parts, metadata={})
    assert clean(document) == (
        Block(kind="paragraph", text="# plain"),
        Block(kind="heading", text="marked", level=1),
    )


def test_text_paragraphs() -> None:
    """Blank lines separate; inner runs of blanks collapse; indentation of lines stays."""
    assert cleaned("\n one  two\tthree \r\nline\n \t\n  if x:\n      y\n\n\n") == [
        ("paragraph", " one two three\nline"),
        ("paragraph", "if x:\n    y"),
    ]


@pytest.mark.parametrize("content_type", ["text", "markdown", "html"])
def test_scripts_survive(content_type: ContentType) -> None:
    """No script loses a character, emoji sequences and marks stay whole, NFC is applied."""
    text = "漢字かな العربية हिन्दी ไทย עברית Ελληνικά 👩‍👩‍👧 🇫🇷 q̣̈"
    assert cleaned(text, content_type) == [("paragraph", text)]
    assert cleaned("cafe\u0301", content_type) == [("paragraph", "caf\u00e9")]


@pytest.mark.parametrize("content_type", ["text", "markdown", "html"])
def test_controls_are_dropped(content_type: ContentType) -> None:
    """Null bytes and other control characters vanish, those that break lines separate."""
    ((_, text),) = cleaned("a\x00b\x07c\x9d d\x0ce", content_type)
    assert text.split() == ["abc", "d", "e"]


@pytest.mark.parametrize("content", ["a\ud800b", "\ufffd\ufffd \n\ufffd", b"caf\xe9", b"\xff\xfea"])
def test_broken_encodings_are_rejected(content: str | bytes) -> None:
    """Half a surrogate pair, garbage only and undecodable bytes are said to be broken."""
    with pytest.raises(Rejected, match="clean: broken encoding"):
        cleaned(content)


def test_a_broken_title_is_rejected() -> None:
    """The title is text too."""
    document = Document(key=Key("c", '"1"'), title="\udfff", parts=(), metadata={})
    with pytest.raises(Rejected, match="surrogate at character 0"):
        clean(document)


def test_bytes_are_decoded() -> None:
    """UTF-8 with or without its mark, and UTF-16 with one."""
    assert (
        cleaned("é".encode()) == cleaned("é".encode("utf-8-sig")) == cleaned("é".encode("utf-16"))
    )


@pytest.mark.parametrize("content_type", ["text", "markdown", "html"])
@pytest.mark.parametrize("content", ["", " \n\t\n", "\x00"])
def test_nothing_is_no_block(content_type: ContentType, content: str) -> None:
    """A document without text is no failure."""
    assert cleaned(content, content_type) == []


def test_markdown_structure() -> None:
    """Headings, nested items, rows and code are told apart; inline markup is only its text."""
    source = (
        "# A [link](http://x) and `code`\n\n*one*\ntwo &amp;lt;\n\n- a\n  - b\n\n    more\n"
        "1. c\n\n| x | y |\n|---|---|\n| 1 | **2** |\n\n```py\nif x:\n    y  # *z*\n```\n\n"
        "> quoted\n"
    )
    assert cleaned(source, "markdown") == [
        ("heading", "A link and code"),
        ("paragraph", "one two &lt;"),
        ("list_item", "a"),
        ("list_item", "b"),
        ("paragraph", "more"),
        ("list_item", "c"),
        ("table", "x | y\n1 | 2"),
        ("code", "if x:\n    y  # *z*"),
        ("paragraph", "quoted"),
    ]


def test_html_in_markdown() -> None:
    """Raw HTML, in blocks and within lines, is read as HTML."""
    source = "<div>\n<h2>Head</h2>\n</div>\n\na <b>b</b><script>alert(1)</script> `<i>`\n"
    assert cleaned(source, "markdown") == [("heading", "Head"), ("paragraph", "a b <i>")]


def test_deep_markdown_keeps_its_text() -> None:
    """Nesting beyond what the parser follows ends as text, quickly."""
    ((_, text),) = cleaned("> " * 5_000 + "deep", "markdown")
    assert text.endswith("deep")


def test_hostile_markdown_is_quick() -> None:
    """Brackets without end, which take a parser quadratic time, are text."""
    assert cleaned("[" * 300_000, "markdown") == [("paragraph", "[" * 300_000)]
