"""From a document's parts to blocks of clean text, whatever format they are in."""

from __future__ import annotations

from collections.abc import Iterable

from models.records import Block, Document, Part
from syncline.errors import Rejected
from transforms.html import html_blocks
from transforms.markdown import markdown_blocks
from transforms.text import check_encoding, decode, plain_blocks


def clean(document: Document) -> tuple[Block, ...]:
    """The blocks of all parts, in order; none if there is no text.

    Unicode is NFC and otherwise kept, without control characters; white space is normalised except
    in code. Raises `Rejected` for a broken encoding or a file that cannot be read.
    """
    check_encoding(document.title)
    return tuple(block for part in document.parts for block in _blocks(part))


def _blocks(part: Part) -> Iterable[Block]:
    match part.content_type:
        case "text":
            return plain_blocks(decode(part.content))
        case "markdown":
            return markdown_blocks(decode(part.content))
        case "html":
            return html_blocks(decode(part.content))
        case "pdf" | "docx" as file_type:
            from transforms.rich import rich_blocks

            if isinstance(part.content, str):
                raise Rejected("clean", f"{file_type} content must be binary, not a string")
            return rich_blocks(file_type, part.content)
