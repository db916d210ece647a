"""What every file of the project keeps to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"https?://((?:[\w-]+\.)+[a-z]{2,})(?![\w-])")
KNOWN = {
    *("bytewax.io", "keepachangelog.com", "pulsar.apache.org", "semver.org", "www.apache.org"),
    "download.pytorch.org",
}
"""Hosts that people are sent to, and one from which the image's build takes torch. No program is:
what it needs is installed or configured."""
STAND_IN = re.compile(r"(?:^|\.)example\.\w+$|\.svc$")
HOME = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt)/\w")


def files() -> list[Path]:
    """Everything that is, or would be, under version control and is text."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def lines() -> Iterator[tuple[str, str]]:
    """Every line of every file, with its place."""
    for path in files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def test_no_file_knows_a_machine() -> None:
    """No absolute path below somebody's home."""
    assert [place for place, line in lines() if HOME.search(line)] == []


def test_every_host_is_known() -> None:
    """An address is one of a short list, or stands for the reader's own."""
    found = [(place, host) for place, line in lines() for host in ADDRESS.findall(line)]
    assert {host for _, host in found} >= KNOWN
    assert [one for one in found if one[1] not in KNOWN and not STAND_IN.search(one[1])] == []


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link in a Markdown page names a file that exists."""
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in files()
        if page.suffix == ".md"
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_decision_is_in_the_index() -> None:
    """`docs/decisions/README.md` links each page there once."""
    folder = ROOT / "docs" / "decisions"
    linked = re.findall(r"\]\((\d{4}-[^)]+)\)", (folder / "README.md").read_text())
    assert sorted(linked) == sorted(page.name for page in folder.glob("0*.md"))
