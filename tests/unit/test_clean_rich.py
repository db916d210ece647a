"""PDF and DOCX, built here; skipped without the extra `rich`."""

from __future__ import annotations

import importlib.util
from io import BytesIO
from typing import Literal
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from models.records import Document, Key, Part
from syncline.errors import Rejected
from transforms.clean import clean

INSTALLED = all(map(importlib.util.find_spec, ("unstructured", "docx", "pdfminer")))
needs_extra = pytest.mark.skipif(not INSTALLED, reason="needs the extra: syncline[rich]")


def cleaned(content: str | bytes, file_type: Literal["pdf", "docx"]) -> list[tuple[str, int, str]]:
    part = Part(content_type=file_type, content=content)
    document = Document(key=Key("c", '"1"'), title="", parts=(part,), metadata={})
    return [(block.kind, block.level, block.text) for block in clean(document)]


def a_docx() -> bytes:
    file = pytest.importorskip("docx").Document()
    file.sections[0].header.paragraphs[0].text = "page header"
    file.add_heading("Chapter", 1)
    file.add_paragraph("Hello world. A paragraph: नमस्ते.")
    file.add_heading("Section", 2)
    file.add_paragraph("item", style="List Bullet")
    table = file.add_table(rows=2, cols=2)
    for number, cell in enumerate(table._cells):
        cell.text = f"c{number}"
    raw = BytesIO()
    file.save(raw)
    return raw.getvalue()


def a_pdf(*lines: str) -> bytes:
    """One page with these lines; the smallest file that readers accept."""
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    stream = f"BT /F 12 Tf 14 TL 72 700 Td {shown} ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        " /Resources << /Font << /F 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\n"
    return f"{body}{tail}startxref\n{len(body)}\n%%EOF".encode()


@needs_extra
def test_docx_structure() -> None:
    """Styles become kinds and levels, tables rows; the page header is left out."""
    assert cleaned(a_docx(), "docx") == [
        ("heading", 1, "Chapter"),
        ("paragraph", 0, "Hello world. A paragraph: नमस्ते."),
        ("heading", 2, "Section"),
        ("list_item", 0, "item"),
        ("table", 0, "c0 | c1\nc2 | c3"),
    ]


@needs_extra
def test_pdf_structure() -> None:
    """Lines that stand together are one paragraph; what reads like a title is a heading."""
    text = ("This is the text of a page, and it", "goes on in a second line.")
    assert cleaned(a_pdf("Annual Report", "", *text), "pdf") == [
        ("heading", 1, "Annual Report"),
        ("paragraph", 0, " ".join(text)),
    ]


@needs_extra
def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading both formats opens no connection and prints nothing."""
    attempts: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert cleaned(a_docx(), "docx")
    assert cleaned(a_pdf("A line of text that goes on."), "pdf")
    assert attempts == []


@needs_extra
@pytest.mark.parametrize("file_type", ["pdf", "docx"])
@pytest.mark.parametrize("raw", [b"", b"junk", b"%PDF-1.4\n%%EOF", b"PK\x03\x04junk"])
def test_broken_files_are_rejected(raw: bytes, file_type: Literal["pdf", "docx"]) -> None:
    """A file that cannot be read harms only itself."""
    with pytest.raises(Rejected, match="clean: unreadable"):
        cleaned(raw, file_type)


@needs_extra
def test_a_zip_bomb_is_rejected() -> None:
    """A small file that unpacks to hundreds of megabytes is not unpacked."""
    raw = BytesIO()
    with ZipFile(raw, "w", ZIP_DEFLATED) as archive, archive.open("word/document.xml", "w") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(Rejected, match="unpacks to"):
        cleaned(raw.getvalue(), "docx")


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
@pytest.mark.parametrize("file_type", ["pdf", "docx"])
def test_the_missing_extra_is_named(file_type: Literal["pdf", "docx"]) -> None:
    """Without the extra the reason says what to install."""
    with pytest.raises(Rejected, match=r"install syncline\[rich\]"):
        cleaned(b"x", file_type)


def test_binary_formats_are_binary() -> None:
    """A string cannot be a PDF."""
    with pytest.raises(Rejected, match="must be binary"):
        cleaned("text", "pdf")
