"""What every file of the project keeps to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org")
HOME = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt)/\w")


def files() -> list[Path]:
    """Everything that is, or would be, under version control and is text."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def test_no_file_knows_a_machine_or_a_registry() -> None:
    """No package registry's host and no absolute path below somebody's home."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(host in line for host in HOSTS) or HOME.search(line)
    ]
    assert found == []


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
