"""Text as people wrote it, made uniform: encodings, control characters, white space, paragraphs."""

from __future__ import annotations

import codecs
import re
import textwrap
import unicodedata
from collections.abc import Iterator

from models.records import Block
from syncline.errors import Rejected

_CONTROL_OR_BREAK = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
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
    if not _CONTROL_OR_BREAK.search(text):
        return text
    return _CONTROLS.sub("", _BREAKS.sub("\n", text))


def paragraph(text: str) -> str:
    """One paragraph: NFC, runs of white space made one space, line breaks kept."""
    text = unicodedata.normalize("NFC", without_controls(text))
    if _is_tidy(text):
        return text.strip()
    return _BLANKS_AT_BREAK.sub("\n", _BLANKS.sub(" ", text)).strip()


def verbatim(text: str) -> str:
    """Code: NFC, nothing else but blank lines around it and white space at its end removed."""
    return unicodedata.normalize("NFC", without_controls(text)).strip("\n").rstrip()


def plain_blocks(text: str) -> Iterator[Block]:
    """Paragraphs of plain text: what blank lines separate. Indentation within one is kept."""
    for part in _BLANK_LINES.split(text):
        tidy = part.strip() if _is_tidy(part) else _tidy(part)
        if tidy.strip():
            yield Block(kind="paragraph", text=unicodedata.normalize("NFC", tidy))


def _tidy(part: str) -> str:
    lines = textwrap.dedent(part).strip("\n").rstrip()
    return "\n".join(_INNER_BLANKS.sub(" ", line).rstrip() for line in lines.split("\n"))


def _is_tidy(text: str) -> bool:
    """Whether all white space but at its end is single, spaces or line breaks.

    Most text is, and this takes a tenth of the time of making it so. The space is the only white
    space that Python calls printable.
    """
    single = "  " not in text and " \n" not in text and "\n " not in text
    return single and not text.startswith(" ") and text.replace("\n", "").isprintable()


def _decode_bytes(raw: bytes) -> str:
    encoding = next((name for bom, name in _BOMS.items() if raw.startswith(bom)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"broken encoding: not {encoding.upper()} at byte {error.start}"
        raise Rejected("clean", reason) from error
