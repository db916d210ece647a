"""PDF and DOCX to blocks, through `unstructured` (the extra `rich`), without any network.

`unstructured` is imported when the first such document comes: that takes seconds. Three things in
it are kept from reaching for the network: its usage reports, its notice (which also prints to
stdout), and the English spaCy model that it would download to tell sentences apart; a rule-based
splitter stands in, equal on every machine.

Its own PDF entry needs OpenCV, ONNX and a layout model's packages merely to be imported. So pages
are read with pdfminer.six as its strategy "fast" does, and its classifier names the elements.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from io import BytesIO
from typing import Any, Literal, NamedTuple
from zipfile import ZipFile

from models.records import Block
from syncline.errors import Rejected
from transforms.html import html_blocks
from transforms.text import paragraph

_REMEDY = "PDF and DOCX need the extra: install syncline[rich]"
_MAX_HEADING_CHARS = 200
_MAX_UNPACKED_BYTES = 256 << 20
"""Ten times what the largest MongoDB document ordinarily unpacks to; a zip bomb is far beyond."""

_DROPPED = frozenset(("Header", "Footer", "PageBreak", "PageNumber", "Image"))


class _Readers(NamedTuple):
    docx: Callable[[bytes], Iterable[Any]]
    pdf: Callable[[bytes], Iterable[Any]]


def rich_blocks(file_type: Literal["pdf", "docx"], raw: bytes) -> list[Block]:
    """The blocks of a PDF or DOCX file: pages' headers and footers, and images, are left out.

    Raises `Rejected` if the extra is not installed or the file cannot be read.
    """
    readers = _readers()
    read = readers.pdf if file_type == "pdf" else readers.docx
    try:
        return [block for element in read(raw) if (block := _block(element))]
    except Rejected:
        raise
    except Exception as error:
        # The parsers raise whatever a broken file makes them stumble over, KeyError and
        # struct.error included; all of it says that this one document cannot be read.
        reason = f"unreadable {file_type.upper()}: {type(error).__name__}: {error}"
        raise Rejected("clean", reason[:500]) from error


def _block(element: Any) -> Block | None:
    text = paragraph(element.text or "")
    if not text or element.category in _DROPPED:
        return None
    depth = element.metadata.category_depth or 0
    if element.category == "Title" and len(text) <= _MAX_HEADING_CHARS:
        return Block(kind="heading", text=text.replace("\n", " "), level=min(depth + 1, 6))
    if element.category == "ListItem":
        return Block(kind="list_item", text=text, level=depth)
    if element.category == "Table":
        return Block(kind="table", text=_rows(element.metadata.text_as_html) or text)
    return Block(kind="paragraph", text=text)


def _rows(table: str | None) -> str:
    return "\n".join(block.text for block in html_blocks(table or ""))


@cache
def _readers() -> _Readers:
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("UNSTRUCTURED_DISABLE_NOTICE", "1")
    try:
        from pdfminer.high_level import extract_pages
        from unstructured.documents.coordinates import PixelSpace
        from unstructured.nlp import tokenize
        from unstructured.partition.docx import partition_docx
        from unstructured.partition.text import element_from_text
    except ImportError as error:
        raise Rejected("clean", f"{_REMEDY} ({error})") from error
    tokenize._load_spacy_model = _sentence_rules

    def docx(raw: bytes) -> Iterable[Any]:
        _check_unpacked_size(raw)
        elements: Iterable[Any] = partition_docx(file=BytesIO(raw), languages=[""])
        return elements

    def pdf(raw: bytes) -> Iterator[Any]:
        for page in extract_pages(BytesIO(raw)):
            system = PixelSpace(width=page.width, height=page.height)
            for box in page:
                text = paragraph(box.get_text()) if hasattr(box, "get_text") else ""
                if text:
                    top, bottom = page.height - box.y1, page.height - box.y0
                    corners = ((box.x0, top), (box.x0, bottom), (box.x1, bottom), (box.x1, top))
                    yield element_from_text(text.replace("\n", " "), corners, system)

    return _Readers(docx, pdf)


def _sentence_rules() -> Any:
    import spacy

    rules = spacy.blank("xx")
    rules.add_pipe("sentencizer")
    rules.max_length = 20_000_000
    return rules


def _check_unpacked_size(raw: bytes) -> None:
    with ZipFile(BytesIO(raw)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _MAX_UNPACKED_BYTES:
        raise Rejected(
            "clean", f"the DOCX unpacks to {unpacked} bytes (at most {_MAX_UNPACKED_BYTES})"
        )
