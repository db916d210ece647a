"""HTML to blocks, in one pass over lxml's parser events.

No tree is built: HTML5 tree construction is quadratic on hostile input (a document of 300 kB can
take minutes and gigabytes), while libxml2's events come balanced, in linear time, at any depth.
Nothing is executed, fetched or expanded but character references, once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from lxml import etree

from models.records import Block
from syncline.errors import Rejected
from transforms.text import paragraph, verbatim

_DROPPED = frozenset(
    "title script style noscript noframes template iframe frame svg canvas audio video object "
    "embed nav button select option optgroup datalist textarea label".split()
)
_DROPPED_ROLES = frozenset("navigation search menu menubar toolbar contentinfo".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt "
    "fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li "
    "main menu ol p pre section summary table tbody td tfoot th thead tr ul xmp listing".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset("ul ol menu dir".split())
_VERBATIM = frozenset("pre listing xmp".split())
_STRUCTURE = _VERBATIM | _LISTS | _HEADINGS.keys() | {"table"}
_CONTENT = frozenset("article main section".split())
_NAVIGATION = re.compile(r"\b(nav|navigation|navbar|menu|sidebar|toc|breadcrumbs?)\b", re.I)
_INVISIBLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_BREAK = re.compile(r"[\n\t]+")
_FRAME = frozenset(("header", "footer"))
_ROOTS = frozenset(("html", "body"))
_FEED_BYTES = 1 << 16


def html_blocks(text: str) -> list[Block]:
    """The blocks of an HTML document or fragment. Raises `Rejected` if it cannot be parsed."""
    if not text.strip():
        return []
    reader = _Reader()
    parser = etree.HTMLParser(target=reader, huge_tree=True, encoding="utf-8")
    raw = text.encode()
    try:
        for start in range(0, len(raw), _FEED_BYTES):
            parser.feed(raw[start : start + _FEED_BYTES])
        parser.close()
    except etree.LxmlError as error:
        raise Rejected("clean", f"unreadable HTML: {error}") from error
    return reader.blocks


class _Reader:
    """Receives balanced start and end events and text, and collects blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: Counter[str] = Counter()
        self._skipped = 0
        self._pieces: list[str] = []
        self._item = False
        self._rows: list[list[str]] | None = None
        """The table being read, row by row; None outside, and in tables made for layout."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self._skipped or self._is_dropped(tag, attributes):
            self._skipped += 1
            return
        if tag == "br":
            self._pieces.append("\n")
        elif tag in _BLOCKS:
            self._enter(tag)
        self._open[tag] += 1

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        if tag in _BLOCKS:
            self._leave(tag)
        self._open[tag] -= 1

    def data(self, text: str) -> None:
        if not self._skipped:
            self._pieces.append(text if self._inside(_VERBATIM) else _BREAK.sub(" ", text))

    def close(self) -> None:
        self._end_table()

    def _enter(self, tag: str) -> None:
        if tag in _STRUCTURE:
            self._end_table()
        if self._rows is None:
            self._flush()
        elif tag == "tr":
            self._rows.append([])
        else:
            self._pieces.append(" ")
        if tag == "li":
            self._item = True
        elif tag == "table":
            self._rows = [[]]

    def _leave(self, tag: str) -> None:
        if self._rows is None:
            self._flush()
        elif tag in ("td", "th"):
            self._rows[-1].append(self._take().replace("\n", " "))
        elif tag == "caption":
            self._flush()
        elif tag == "table":
            self._end_table()
        else:
            self._pieces.append(" ")
        if tag == "li":
            self._item = False

    def _end_table(self) -> None:
        """The rows read so far become a block; what follows in the table is ordinary content."""
        rows, self._rows = self._rows, None
        lines = [" | ".join(cells) for cells in rows or () if any(cells)]
        if lines:
            self.blocks.append(Block(kind="table", text="\n".join(lines)))
        self._flush()

    def _flush(self) -> None:
        code = self._inside(_VERBATIM)
        text = verbatim("".join(self._pieces)) if code else paragraph("".join(self._pieces))
        self._pieces.clear()
        if text:
            self.blocks.append(self._block(text, code))

    def _take(self) -> str:
        text = paragraph("".join(self._pieces))
        self._pieces.clear()
        return text

    def _block(self, text: str, code: bool) -> Block:
        heading = next((level for tag, level in _HEADINGS.items() if self._open[tag]), 0)
        if heading:
            return Block(kind="heading", text=text.replace("\n", " "), level=heading)
        if code:
            return Block(kind="code", text=text)
        if self._item:
            self._item = False
            depth = sum(self._open[tag] for tag in _LISTS) - 1
            return Block(kind="list_item", text=text, level=max(depth, 0))
        return Block(kind="paragraph", text=text)

    def _inside(self, tags: frozenset[str]) -> bool:
        return any(self._open[tag] for tag in tags)

    def _is_dropped(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if tag in _DROPPED:
            return True
        if tag in _LISTS and self._inside(_FRAME) and not self._inside(_CONTENT):
            return True
        return bool(attributes) and tag not in _ROOTS and _is_hidden_or_navigation(tag, attributes)


def _is_hidden_or_navigation(tag: str, attributes: Mapping[str, str]) -> bool:
    if attributes.get("hidden", "until-found") != "until-found":
        return True
    if attributes.get("aria-hidden") == "true" or _INVISIBLE.search(attributes.get("style", "")):
        return True
    names = (attributes.get(name, "") for name in ("class", "id", "aria-label"))
    aside = tag == "aside" and any(_NAVIGATION.search(name) for name in names)
    return aside or attributes.get("role", "") in _DROPPED_ROLES
