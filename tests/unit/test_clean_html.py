"""What `html_blocks` keeps of HTML, what it drops, and what hostile HTML does to it: nothing."""

from __future__ import annotations

import pytest

from transforms.html import html_blocks


def read(text: str) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in html_blocks(text)]


def test_structure() -> None:
    """Headings, lists, tables, code and quotes become blocks with their levels."""
    blocks = html_blocks(
        "<h2>Head <em>line</em></h2>lead<blockquote>q</blockquote><ul><li>a<ol><li>b</ol><li>c</ul>"
        "<table><tr><th>x<th>y<tr><td>1<td><p>2 <br>3</table><pre>\nif x:\n    <b>y</b>\n</pre>end"
    )
    assert [(block.kind, block.level, block.text) for block in blocks] == [
        ("heading", 2, "Head line"),
        ("paragraph", 0, "lead"),
        ("paragraph", 0, "q"),
        ("list_item", 0, "a"),
        ("list_item", 1, "b"),
        ("list_item", 0, "c"),
        ("table", 0, "x | y\n1 | 2 3"),
        ("code", 0, "if x:\n    y"),
        ("paragraph", 0, "end"),
    ]


def test_a_table_for_layout_is_taken_apart() -> None:
    """A table that holds structure gives its content, not one endless row."""
    assert read("<table><tr><td><h1>T</h1>a<table><tr><td>1<td>2</table>b</table>") == [
        ("heading", "T"),
        ("paragraph", "a"),
        ("table", "1 | 2"),
        ("paragraph", "b"),
    ]


@pytest.mark.parametrize(
    "dropped",
    [
        "<script>x</script>",
        "<style>x</style>",
        "<title>x</title>",
        "<noscript>x</noscript>",
        "<template><p>x</p></template>",
        "<iframe>x</iframe>",
        "<svg><text>x</text></svg>",
        "<nav><ul><li>x</ul></nav>",
        "<div role=navigation>x</div>",
        "<aside class='left sidebar'>x</aside>",
        "<header><ul><li>x</ul></header>",
        "<footer><ul><li>x</ul></footer>",
        "<div hidden>x<div>x</div></div>",
        "<span style='color: red; DISPLAY : none'>x</span>",
        "<span aria-hidden=true>x</span>",
        "<form><button>x</button><select><option>x</select><textarea>x</textarea></form>",
        "<!-- x --><!--[if IE]><p>x</p><![endif]--><![CDATA[x]]>",
        "<p title='x' onclick='x'></p>",
    ],
)
def test_what_is_not_content_is_dropped(dropped: str) -> None:
    """Scripts, navigation, hidden elements and controls go; their neighbours stay."""
    assert "".join(text for _, text in read(f"<p>a</p>{dropped}<p>b</p>")) == "ab"


def test_an_article_keeps_its_header_and_asides() -> None:
    """Only navigation is dropped from headers, footers and asides."""
    text = "<article><header><h1>T</h1><ul><li>a</ul></header><aside>b</aside></article>"
    assert [text for _, text in read(text)] == ["T", "a", "b"]


def test_character_references_are_decoded_once() -> None:
    """What was escaped twice stays escaped once, and markup made of it is text."""
    assert read("<p>&amp;lt;b&amp;gt; &lt;script&gt;x&lt;/script&gt; &eacute;&#x65;&nbsp;e") == [
        ("paragraph", "&lt;b&gt; <script>x</script> ée e")
    ]


def test_a_declared_charset_is_not_believed() -> None:
    """The text is decoded already; what it says of its bytes no longer holds."""
    assert read("<meta charset=latin-1><p>é漢") == [("paragraph", "é漢")]


@pytest.mark.parametrize(
    "hostile",
    [
        "<div>" * 100_000,
        "<b>" * 100_000,
        "<ul><li>" * 50_000,
        "<table><tr><td>" * 50_000,
        "<a href=1><div>" * 20_000 + "</a>" * 20_000,
        "".join(f"<p><b id={number}>" for number in range(20_000)),
        "<p " + " ".join(f"a{number}=1" for number in range(100_000)) + ">",
        "<p title='" + "x" * 12_000_000 + "'>",
        "</p></div></table>" * 50_000,
        '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;&a;">]>',
        "<![if !IE]>",
        "<script>alert(1)</script>",
    ],
    ids=range(12),
)
def test_hostile_html_is_only_text(hostile: str) -> None:
    """Depth, size and broken markup cost neither recursion nor text: what follows is found."""
    texts = [text for _, text in read(f"{hostile}found")]
    assert any("found" in text for text in texts)
    assert not any("alert" in text for text in texts)
