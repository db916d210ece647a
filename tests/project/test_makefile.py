"""The Makefile's promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_help_lists_every_target() -> None:
    """`make help`, and `make` alone, name each target once."""
    listed = re.findall(r"^ +make (\w+)", make("help"), re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)
    assert make() == make("help")


def test_what_users_need_is_there() -> None:
    """The targets that README and CONTRIBUTING speak of."""
    assert {"help", "setup", "up", "demo", "test", "check", "bench"} <= TARGETS


def test_every_target_that_runs_something_sets_up_first() -> None:
    """A fresh clone needs no `make setup` by hand."""
    ready = re.findall(r"^(\w+): \$\(STAMP\)", MAKEFILE, re.MULTILINE)
    assert set(ready) == TARGETS - {"help", "lock", "clean"}


def test_an_unusable_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """With no Python 3.11 or 3.12 to be found, the message says what to install."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("python3", "python3.11"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    command = ["make", "setup", f"PATH={tools}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Python 3.11 or 3.12" in done.stderr
    assert not (tmp_path / ".venv").exists()
