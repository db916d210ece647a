"""Markdown to blocks, with markdown-it-py (CommonMark and tables).

Inline markup is reduced to its text; raw HTML goes through the HTML reader.
"""

from __future__ import annotations

import html
import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from models.records import Block
from transforms.html import html_blocks
from transforms.text import paragraph, verbatim

_MARKUP = re.compile(r"[\\`*_\[<&]|  \n")
"""What a paragraph of more than plain text has at least one of: the characters that CommonMark's
inline constructs begin with, or a hard line break."""
_TEXTS = frozenset(("text", "text_special", "code_inline"))

_MAX_INLINE_CHARS = 20_000
_MAX_BRACKETS = 200
"""Paragraphs with more are taken as they are: markdown-it looks through the rest of a paragraph for
the end of each bracket, which is quadratic. At these limits that is below 0.1 s a paragraph."""

_MAX_LEVEL = 20
"""Of nested lists (two levels each) and quotes. markdown-it recurses, and would leave out what is
nested deeper; here it becomes text."""


def markdown_blocks(text: str) -> list[Block]:
    """The blocks of a Markdown document."""
    parser = MarkdownIt("commonmark", {"maxNesting": 2 * _MAX_LEVEL}).enable("table")
    parser.disable("inline")
    parser.block.ruler.before("table", "too_deep", _too_deep)
    references: dict[str, Any] = {}
    tokens = parser.parse(text, references)
    reader = _Reader(parser, references)
    for token in tokens:
        reader.read(token)
    return reader.blocks


def _too_deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A block rule: at the deepest level all the rest is one paragraph."""
    if silent or state.level < _MAX_LEVEL:
        return False
    state.push("inline", "", 0).content = state.getLines(start, end, state.blkIndent, False)
    state.line = end
    return True


class _Reader:
    """Receives markdown-it's block tokens in order, and collects blocks."""

    def __init__(self, parser: MarkdownIt, references: dict[str, Any]) -> None:
        self.blocks: list[Block] = []
        self._parser = parser
        self._references = references
        self._lists = 0
        self._item = False
        self._heading = 0
        self._rows: list[list[str]] | None = None

    def read(self, token: Token) -> None:
        match token.type:
            case "inline":
                self._add(self._inline(token.content))
            case "fence" | "code_block":
                self._append(Block(kind="code", text=verbatim(token.content)))
            case "html_block":
                self.blocks.extend(html_blocks(token.content))
            case "bullet_list_open" | "ordered_list_open":
                self._lists += 1
            case "bullet_list_close" | "ordered_list_close":
                self._lists -= 1
            case "list_item_open":
                self._item = True
            case "list_item_close":
                self._item = False
            case "heading_open":
                self._heading = int(token.tag[1])
            case "heading_close":
                self._heading = 0
            case "table_open":
                self._rows = []
            case "tr_open" if self._rows is not None:
                self._rows.append([])
            case "table_close":
                self._end_table()

    def _add(self, text: str) -> None:
        if self._rows is not None:
            self._rows[-1].append(text.replace("\n", " "))
        elif self._heading:
            heading = text.replace("\n", " ")
            self._append(Block(kind="heading", text=heading, level=self._heading))
        elif self._item and text:
            self._item = False
            self._append(Block(kind="list_item", text=text, level=self._lists - 1))
        else:
            self._append(Block(kind="paragraph", text=text))

    def _append(self, block: Block) -> None:
        if block.text:
            self.blocks.append(block)

    def _end_table(self) -> None:
        lines = [" | ".join(cells) for cells in self._rows or () if any(cells)]
        self._rows = None
        self._append(Block(kind="table", text="\n".join(lines)))

    def _inline(self, source: str) -> str:
        if not _MARKUP.search(source):
            return paragraph(source.replace("\n", " "))
        if len(source) > _MAX_INLINE_CHARS or source.count("[") > _MAX_BRACKETS:
            return paragraph(source)
        tokens: list[Token] = []
        self._parser.inline.parse(source, self._parser, self._references, tokens)
        if not any(token.type == "html_inline" for token in tokens):
            return paragraph("".join(_text(token) for token in tokens))
        mixed = "".join(
            token.content if token.type == "html_inline" else html.escape(_text(token))
            for token in tokens
        )
        return "\n".join(block.text for block in html_blocks(mixed))


def _text(token: Token) -> str:
    if token.type == "softbreak":
        return " "
    if token.type == "hardbreak":
        return "\n"
    return token.content if token.type in _TEXTS else ""
