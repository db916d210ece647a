"""Which of the content types a piece of content is."""

from __future__ import annotations

import re

from models.records import ContentType

_LOOK_AT = 100_000
"""Characters that decide; later ones neither cost time nor change what a long text is."""

_HTML_DOCUMENT = re.compile(r"<!doctype\s+html|<(?:html|head|body)[\s>]", re.I)
_HTML_BLOCK = re.compile(
    r"<(?:p|div|h[1-6]|ul|ol|li|table|tr|td|section|article|main|header|footer|nav|blockquote"
    r"|pre|br|hr|img|script|style)(?:\s[^<>]{0,500})?/?>",
    re.I,
)
# Not ~~~, which underlines headings in reStructuredText.
_FENCE = re.compile(r"^ {0,3}```[^`\n]{0,100}$", re.M)
_HEADING = re.compile(r"(?:\A|\n[ \t]*\n) {0,3}#{1,6} [^\n]+(?=\n[ \t]*\n|\n#{1,6} |\s*\Z)")
# A target with a slash, dot or hash: f[i](x) is code.
_LINK = re.compile(r"\[[^\[\]\n]{1,200}\]\((?=[^()\s]{0,500}[/.#])[^()\s]{1,500}\)")
_LIST_LINE = re.compile(r"^ {0,3}[-*+] \S", re.M)

_NAMES: dict[str, ContentType] = {
    "text/plain": "text",
    "txt": "text",
    "text": "text",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "md": "markdown",
    "markdown": "markdown",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "html": "html",
    "htm": "html",
    "xhtml": "html",
    "application/pdf": "pdf",
    "pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "docx": "docx",
}


def type_of_text(text: str) -> ContentType:
    """HTML, Markdown or plain text, by clear signs; in doubt plain text, which loses nothing.

    HTML: a doctype, `html`, `head` or `body` tag near the start, or three block tags. Markdown:
    two signs among a heading between blank lines (worth two), fences, links and a list.
    """
    head = text[:_LOOK_AT]
    if _HTML_DOCUMENT.search(head[:1_000]):
        return "html"
    if _markdown_signs(head) >= 2:
        return "markdown"
    tags = _HTML_BLOCK.findall(head)
    return "html" if len(tags) >= 3 or (tags and head.lstrip().startswith("<")) else "text"


def _markdown_signs(text: str) -> int:
    return (
        2 * bool(_HEADING.search(text))
        + min(2, len(_FENCE.findall(text)))
        + min(2, len(_LINK.findall(text)))
        + (len(_LIST_LINE.findall(text)) >= 3)
    )


def type_of_bytes(content: bytes) -> ContentType | None:
    """PDF or DOCX by their magic numbers, None for anything else."""
    if b"%PDF-" in content[:1_024]:
        return "pdf"
    if content.startswith(b"PK\x03\x04") and b"word/document.xml" in content:
        return "docx"
    return None


def type_of_name(name: str) -> ContentType | None:
    """The content type that a MIME type, a file's name or its extension stands for."""
    plain = name.split(";")[0].strip().lower()
    known = _NAMES.get(plain) or _NAMES.get(plain.rpartition(".")[2])
    return known or ("text" if plain.startswith("text/") else None)
