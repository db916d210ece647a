"""Text as people wrote it, made uniform: encodings, control characters, white space, paragraphs."""

from __future__ import annotations

import codecs
import re
import textwrap
import unicodedata
from collections.abc import Iterator

from models.records import Block
from syncline.errors import Rejected

_BREAKS = dict.fromkeys(map(ord, "\x0b\x0c\x85"), "\n")
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_BLANKS = re.compile(r"[^\S\n]+")
_INNER_BLANKS = re.compile(r"(?<=\S)[^\S\n]+")
_BLANKS_AT_BREAK = re.compile(r" ?\n ?")
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decode(content: str | bytes) -> str:
    """Text without a byte-order mark or control characters; line ends are `\\n`.

    Bytes are UTF-8, or UTF-16 with its mark. Raises `Rejected` for a broken encoding.
    """
    text = content if isinstance(content, str) else _decode_bytes(content)
    check_encoding(text)
    if text.strip("\ufffd \t\r\n") == "" and "\ufffd" in text:
        raise Rejected("clean", "broken encoding: nothing but replacement characters (U+FFFD)")
    return without_controls(text.removeprefix("\ufeff"))


def check_encoding(text: str) -> None:
    """Raises `Rejected` if `text` holds half of a surrogate pair: it cannot be stored or read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"broken encoding: lone surrogate at character {error.start}"
        raise Rejected("clean", reason) from error


def without_controls(text: str) -> str:
    """`text` without C0 and C1 control characters; those that break lines become `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS).translate(_CONTROLS)


def paragraph(text: str) -> str:
    """One paragraph: NFC, runs of white space made one space, line breaks kept."""
    text = unicodedata.normalize("NFC", without_controls(text))
    return _BLANKS_AT_BREAK.sub("\n", _BLANKS.sub(" ", text)).strip()


def verbatim(text: str) -> str:
    """Code: NFC, nothing else but blank lines around it and white space at its end removed."""
    return unicodedata.normalize("NFC", without_controls(text)).strip("\n").rstrip()


def plain_blocks(text: str) -> Iterator[Block]:
    """Paragraphs of plain text: what blank lines separate. Indentation within one is kept."""
    for part in _BLANK_LINES.split(text):
        lines = textwrap.dedent(part).strip("\n").rstrip()
        tidy = "\n".join(_INNER_BLANKS.sub(" ", line).rstrip() for line in lines.split("\n"))
        if tidy.strip():
            yield Block(kind="paragraph", text=unicodedata.normalize("NFC", tidy))


def _decode_bytes(raw: bytes) -> str:
    encoding = next((name for bom, name in _BOMS.items() if raw.startswith(bom)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"broken encoding: not {encoding.upper()} at byte {error.start}"
        raise Rejected("clean", reason) from error
