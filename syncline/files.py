"""Files as documents for MongoDB: JSONL line by line, Markdown, text and HTML as a whole.

A file or line that cannot be read is a value with its reason, never an exception.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bson import json_util
from bson.errors import BSONError
from markdown_it import MarkdownIt

from syncline.errors import Misconfigured

CONTENT_TYPES = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
}
LINES = (".jsonl", ".ndjson")

_HEAD_CHARS = 20_000
"""A title is looked for in this much of a file."""
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(BSONError, RecursionError),
)
"""What Extended JSON of wrong types or values makes its parser raise."""
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(?P<quote>[\"']?)(.+?)(?P=quote)[ \t]*\r?$", re.MULTILINE)
_HTML_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)
_HTML_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)


class Source(NamedTuple):
    """A file to load, and its name: the path relative to what was asked for."""

    path: Path
    name: str


class Read(NamedTuple):
    """What was read: a document, or the reason why there is none."""

    origin: str
    """For people: the file, and the line in it."""
    size: int
    """Bytes of input that this took."""
    document: dict[str, Any] | None
    problem: str = ""


def find_files(paths: Sequence[Path]) -> list[Source]:
    """The files that `paths` stand for, directories recursively and in the order of names.

    Within directories, hidden files and those of other kinds are passed over. Raises
    `Misconfigured` for a path that does not exist or a file of an unknown kind.
    """
    return [source for path in paths for source in _files_of(path)]


def read_file(source: Source) -> Iterator[Read]:
    """The documents of one file; at least one `Read`, whose sizes add up to the file's."""
    try:
        if source.path.suffix.lower() in LINES:
            yield from _read_lines(source)
        else:
            yield _read_text(source)
    except OSError as error:
        yield Read(source.name, 0, None, error.strerror or str(error))


def _files_of(path: Path) -> Iterator[Source]:
    known = (*CONTENT_TYPES, *LINES)
    if path.is_dir():
        for found in sorted(path.rglob("*")):
            inner = found.relative_to(path)
            hidden = any(part.startswith(".") for part in inner.parts)
            if found.suffix.lower() in known and not hidden and found.is_file():
                yield Source(found, inner.as_posix())
    elif not path.exists():
        raise Misconfigured(f"there is no file or directory {path}", "name an existing one")
    elif path.suffix.lower() not in known:
        raise Misconfigured(f"{path} is of an unknown kind", f"load one of {', '.join(known)}")
    else:
        yield Source(path, path.name)


def _read_lines(source: Source) -> Iterator[Read]:
    with source.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            origin = f"{source.name}:{number}"
            try:
                document = _parse(line)
            except _UNREADABLE as error:
                yield Read(origin, len(line), None, str(error) or type(error).__name__)
                continue
            if document is not None:
                # Without an `_id` of its own it gets one that is the same at the next load.
                document = {"_id": origin, **document}
            yield Read(origin, len(line), document)


def _parse(line: bytes) -> dict[str, Any] | None:
    text = line.decode("utf-8-sig").strip()
    if not text:
        return None
    value = json_util.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"a line must be a JSON object, not {type(value).__name__}")
    return value


def _read_text(source: Source) -> Read:
    raw = source.path.read_bytes()
    content_type = CONTENT_TYPES[source.path.suffix.lower()]
    text = _decode(raw, content_type)
    if text is None:
        return Read(
            source.name,
            len(raw),
            None,
            "neither UTF-8 text nor with a mark or declaration of its encoding",
        )
    modified = datetime.fromtimestamp(source.path.stat().st_mtime, timezone.utc)
    document = {
        "_id": source.name,
        "title": _title(text[:_HEAD_CHARS], content_type) or source.path.stem,
        "text": text,
        "content_type": content_type,
        "path": source.name,
        "modified": modified,
    }
    return Read(source.name, len(raw), document)


def _decode(raw: bytes, content_type: str) -> str | None:
    """By byte order mark, by what HTML declares, else as UTF-8.

    No guessing: detectors confuse the single-byte code pages, and wrong letters are worse than a
    file that is reported.
    """
    declared = _HTML_CHARSET.search(raw[:1024]) if content_type == "html" else None
    named = declared[1].decode() if declared else "utf-8"
    encoding = next((name for bom, name in _BOMS if raw.startswith(bom)), named)
    try:
        text = raw.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None
    return None if "\0" in text else text


def _title(head: str, content_type: str) -> str:
    if content_type == "html":
        found = _HTML_TITLE.search(head)
        return " ".join(html.unescape(found[1]).split()) if found else ""
    return _markdown_title(head) if content_type == "markdown" else ""


def _markdown_title(head: str) -> str:
    front = _FRONT_MATTER.match(head)
    named = _FRONT_TITLE.search(front[1]) if front else None
    if named:
        return str(named[2])
    tokens = MarkdownIt().parse(head[front.end() :] if front else head)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            words = "".join(c.content for c in token.children or () if c.type != "image")
            if words.strip():
                return " ".join(words.split())
    return ""
