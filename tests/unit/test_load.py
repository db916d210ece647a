"""Files and samples as documents; what `syncline load` reads, before MongoDB sees it."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import ObjectId
from rich.console import Console

from syncline.errors import Misconfigured
from syncline.files import Read, Source, find_files, read_file
from syncline.progress import on_stderr
from syncline.sample import MIN_CHARS, sample_documents


def write(directory: Path, name: str, content: str | bytes) -> Source:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(path, name)


def read(directory: Path, name: str, content: str | bytes) -> list[Read]:
    return list(read_file(write(directory, name, content)))


def one(directory: Path, name: str, content: str | bytes) -> dict[str, Any]:
    (found,) = read(directory, name, content)
    assert found.document is not None, found.problem
    return found.document


def test_find_files_walks_directories_in_order_and_passes_over_what_is_hidden(
    tmp_path: Path,
) -> None:
    """Known files anywhere below, named by their path below; hidden and unknown ones are not."""
    for name in ("b.md", "a/z.TXT", "a/b/c.html", ".git/x.md", "a/.h.md", "a/logo.png", "d.jsonl"):
        write(tmp_path, name, "x")
    found = [source.name for source in find_files([tmp_path])]
    assert found == ["a/b/c.html", "a/z.TXT", "b.md", "d.jsonl"]


def test_a_named_file_has_its_file_name(tmp_path: Path) -> None:
    """A file that is named itself gives the same `_id` from wherever it is loaded."""
    source = write(tmp_path, "deep/er/note.txt", "x")
    assert find_files([source.path]) == [Source(source.path, "note.txt")]


@pytest.mark.parametrize("name", ["missing.md", "image.png"])
def test_a_path_that_cannot_be_loaded_is_refused(tmp_path: Path, name: str) -> None:
    """A path that is missing, or of an unknown kind, is named before anything is read."""
    write(tmp_path, "image.png", "x")
    with pytest.raises(Misconfigured, match=name):
        find_files([tmp_path / name])


def test_jsonl_understands_extended_json(tmp_path: Path) -> None:
    """Dates and ObjectIds in a line arrive as such."""
    line = '{"_id": {"$oid": "507f1f77bcf86cd799439011"}, "at": {"$date": "2024-01-02T03:04:05Z"}}'
    document = one(tmp_path, "a.jsonl", line)
    assert document["_id"] == ObjectId("507f1f77bcf86cd799439011")
    assert document["at"].replace(tzinfo=None) == datetime(2024, 1, 2, 3, 4, 5)


def test_jsonl_bad_lines_are_reported_by_number_and_the_rest_is_read(tmp_path: Path) -> None:
    """Each kind of bad line is one problem at its line; lines before and after are documents."""
    bad = [
        b"not json",
        b"[1]",
        b'{"x": {"$oid": "zz"}}',
        b'{"x": {"$date": []}}',
        b'{"x": {"$numberDecimal": "z"}}',
        b'{"x": {"$binary": {"base64": "!", "subType": "zz"}}}',
        b'{"x": "\xff"}',
        b'{"a":' * 100_000,
    ]
    reads = read(tmp_path, "a.jsonl", b"\n".join([b'{"_id": 1}', *bad, b"", b'{"_id": 2}']))
    assert [r.document for r in reads if r.document is not None] == [{"_id": 1}, {"_id": 2}]
    problems = [r.origin for r in reads if r.problem]
    assert problems == [f"a.jsonl:{number}" for number in range(2, 2 + len(bad))]


def test_jsonl_without_an_id_gets_one_that_stays(tmp_path: Path) -> None:
    """The same line of the same file has the same `_id` at every load."""
    reads = read(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    assert [r.document and r.document["_id"] for r in reads] == ["a.jsonl:1", "a.jsonl:2"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.md"])
def test_sizes_add_up_to_the_file(tmp_path: Path, name: str) -> None:
    """Progress in bytes ends at the file's size, bad and empty lines included."""
    content = '{"_id": 1}\n\nbad\n{"_id": 2}'
    assert sum(r.size for r in read(tmp_path, name, content)) == len(content)


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    """All fields of a plain file, with the time of its last change in UTC."""
    source = write(tmp_path, "a/note.txt", "hello\r\n")
    os.utime(source.path, (0, 86_400))
    (found,) = read_file(source)
    assert found.document == {
        "_id": "a/note.txt",
        "title": "note",
        "text": "hello\r\n",
        "content_type": "text",
        "path": "a/note.txt",
        "modified": datetime(1970, 1, 2, tzinfo=timezone.utc),
    }


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("a.md", '---\nlayout: x\ntitle: "From: above"\n---\n# Heading\n', "From: above"),
        ("a.md", "---\nlayout: x\n---\n# Heading\n", "Heading"),
        ("a.md", "text\n\n## The `code` *first* [one](u)\n\n# Other", "The code first one"),
        ("a.md", "Setext\n======\n", "Setext"),
        ("a.md", "```\n# a comment\n```\n", "a"),
        ("a.md", "# ![badge](b.svg)\n\n# Real\n", "Real"),
        ("b.markdown", "", "b"),
        ("a.html", "<TITLE lang=en>\n Q &amp; A </TITLE><h1>No</h1>", "Q & A"),
        ("a.htm", "<p>x", "a"),
        ("a.rst", "# no markdown", "a"),
    ],
)
def test_titles(tmp_path: Path, name: str, content: str, title: str) -> None:
    """Front matter, else the first heading outside code, else `<title>`, else the file's name."""
    assert one(tmp_path, name, content)["title"] == title


TEXT = "Où est l'été ? Привет, 世界 🙂"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """UTF-8, or what a byte order mark says: the text is the same, without the mark."""
    assert one(tmp_path, "a.txt", TEXT.encode(encoding))["text"] == TEXT


@pytest.mark.parametrize("meta", ['<meta charset="{}">', "<META content='a; charset={}' name=x>"])
def test_html_is_decoded_as_it_declares(tmp_path: Path, meta: str) -> None:
    """A page in a code page of its own arrives with the right letters."""
    page = meta.format("iso-8859-7") + "<title>Καλημέρα</title>"
    assert one(tmp_path, "a.html", page.encode("iso-8859-7"))["title"] == "Καλημέρα"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\x89PNG\r\n\x80\x81"),
        ("a.txt", b"a\0b"),
        ("a.txt", "été".encode("cp1252")),
        ("a.html", b"<meta charset=no-such-thing>"),
    ],
)
def test_what_is_no_text_is_a_problem(tmp_path: Path, name: str, content: bytes) -> None:
    """Binary content, or letters of an undeclared code page, are reported and not guessed at."""
    (found,) = read(tmp_path, name, content)
    assert found.document is None
    assert "UTF-8" in found.problem


def test_a_file_that_vanishes_is_a_problem(tmp_path: Path) -> None:
    """A file that cannot be opened is reported with the system's reason."""
    (found,) = read_file(Source(tmp_path / "gone.md", "gone.md"))
    assert (found.document, found.problem) == (None, "No such file or directory")


def test_the_sample_is_real_text_in_a_fixed_order() -> None:
    """Twice the same, both collections, ids unique, texts long enough, and storable."""
    first = list(sample_documents())
    assert first == list(sample_documents())
    assert {name for name, _ in first} == {"python_reference", "package_readmes"}
    assert len({(name, document["_id"]) for name, document in first}) == len(first) > 100
    for _, document in first:
        assert len(document["text"]) > MIN_CHARS
        assert bson.encode(document)


def test_the_sample_names_what_its_documents_are() -> None:
    """A topic has its heading and kind, a README its package's facts."""
    documents = {document["_id"]: document for _, document in sample_documents()}
    assert documents["try"]["title"] == "The try statement"
    assert (documents["try"]["kind"], documents["typesseq"]["kind"]) == ("statement", "topic")
    package = documents["pytest"]
    assert (package["title"], package["content_type"]) == ("pytest", "text")
    assert (package["license"], "unittest" in package["keywords"]) == ("MIT", True)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_ends_with_the_whole(terminal: bool) -> None:
    """On a terminal and elsewhere, the last thing shown is that all of it is done."""
    shown = StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100)
    with on_stderr("loading", 3, "documents", console=console) as advance:
        advance(1)
        advance(2)
    expected = "3/3" if terminal else "loading: 3 of 3 documents"
    assert expected in shown.getvalue()
