"""A document's blocks as readable text, and the rank of every boundary between its fragments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.records import Block
from transforms.fragments import WINDOW, Fragment, hashed

_AFTER_HEADING, _WITHIN, _ITEM, _PARAGRAPH, _HEADING = range(5)

_MAX_INDENT = 8
_MAX_PATH_CHARS = 200
"""Of one heading in a path: every chunk below repeats it."""


class Layout:
    """The blocks that hold text, and how each reads. Built per document, never changed."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = [block for block in blocks if block.text.strip()]
        self.texts = [_readable(block) for block in self.blocks]
        self.paths = list(_heading_paths(self.blocks))

    def text(self, group: Sequence[Fragment]) -> str:
        """The text of neighbouring fragments: a blank line between blocks, none between items."""
        parts: list[str] = []
        for index, start, end in _spans(group):
            if parts:
                items = self._is_item(index) and self._is_item(index - 1)
                parts.append("\n" if items else "\n\n")
            parts.append(self.texts[index][start:end].strip("\n").rstrip())
        return "".join(parts).rstrip()

    def rank(self, fragment: Fragment) -> int:
        """Of the boundary before `fragment`: its kind first, then a hash of what follows it."""
        text = self.texts[fragment.block][fragment.start : fragment.start + WINDOW]
        return self._kind(fragment) << 64 | hashed(text)

    def _kind(self, fragment: Fragment) -> int:
        block = self.blocks[fragment.block]
        if fragment.start:
            return _WITHIN
        if fragment.block and self.blocks[fragment.block - 1].kind == "heading":
            return _AFTER_HEADING
        if block.kind == "heading":
            return _HEADING + 6 - block.level
        return _ITEM if self._is_item(fragment.block) else _PARAGRAPH

    def _is_item(self, index: int) -> bool:
        return self.blocks[index].kind == "list_item"


def _readable(block: Block) -> str:
    if block.kind == "list_item":
        return "  " * min(block.level, _MAX_INDENT) + "- " + block.text.strip()
    return block.text.strip("\n").rstrip() if block.kind == "code" else block.text.strip()


def _heading_paths(blocks: Sequence[Block]) -> Iterator[tuple[str, ...]]:
    """The headings above each block, outermost first, the block itself not among them."""
    path: list[tuple[int, str]] = []
    for block in blocks:
        if block.kind == "heading":
            path = [(level, text) for level, text in path if level < block.level]
        yield tuple(text for _, text in path)
        if block.kind == "heading":
            path.append((block.level, block.text.strip()[:_MAX_PATH_CHARS]))


def _spans(group: Sequence[Fragment]) -> Iterator[tuple[int, int, int]]:
    """Fragments of one block joined: (block, start, end)."""
    block, start, end = group[0].block, group[0].start, group[0].end
    for fragment in group[1:]:
        if fragment.block != block:
            yield block, start, end
            block, start = fragment.block, fragment.start
        end = fragment.end
    yield block, start, end
