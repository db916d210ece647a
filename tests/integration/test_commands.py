"""Every command of README and the documents runs, or says here why it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pymongo import MongoClient

from syncline.client import Client
from syncline.running import running

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^( *)```(sh|bash|shell|console)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
NOT_RUN = {
    "git clone": "its address is the reader's to know",
    "make ": "takes minutes and the network: the target must exist",
    "syncline up": "runs until it is stopped: the fixture is one",
}
"""How commands begin that no test runs, and why."""


class Command(NamedTuple):
    """A command, and the page that it stands on."""

    page: str
    text: str

    @property
    def is_run(self) -> bool:
        return not self.text.startswith(tuple(NOT_RUN))


def commands_of(kind: str, block: str) -> Iterator[str]:
    """Those of a block: what follows the prompt in `console`, each line of the others."""
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        text = line.strip()
        if kind == "console" and text.startswith("$ "):
            yield text.removeprefix("$ ")
        elif kind != "console" and text and not text.startswith("#"):
            yield text


COMMANDS = [
    Command(page.name, text)
    for page in PAGES
    for _, kind, block in BLOCK.findall(page.read_text())
    for text in commands_of(kind, block)
]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Syncline that holds what the documents ask for."""
    data_dir = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCLINE_EMBEDDER_MODEL", "hash:128")
        patch.setenv("SYNCLINE_LOCAL_DATA_DIR", str(data_dir))
        with running(data_dir) as facts, MongoClient[Any](facts["mongo"]) as mongo:
            database = mongo["syncline"]
            database["faq"].insert_one({"_id": 1, "text": "How to reset a password."})
            log = {"title": "Logbook", "text": "A heavy storm at the lighthouse.", "year": 1901}
            database["notes"].insert_one({"_id": "log/1901", **log})
            _wait_until_indexed(facts["http"], 2)
            yield facts["http"]


def _wait_until_indexed(url: str, documents: int) -> None:
    deadline = time.monotonic() + 60
    with Client(url) as client:
        while client.status()["documents"]["indexed"] < documents:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_commands_are_found() -> None:
    """Every block has commands, and every reason not to run one is in use."""
    for page in PAGES:
        for _, kind, block in BLOCK.findall(page.read_text()):
            assert [*commands_of(kind, block)], f"{page.name}: {block}"
    assert {command.page for command in COMMANDS} >= {"README.md", "CONTRIBUTING.md", "http.md"}
    assert sum(command.is_run for command in COMMANDS) >= 10
    for beginning in NOT_RUN:
        assert any(command.text.startswith(beginning) for command in COMMANDS), beginning


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.is_run], ids=lambda c: f"{c.page}: {c.text[:60]}"
)
def test_it_runs(command: Command, http: str, tmp_path: Path) -> None:
    """It exits 0 against a running Syncline and says something, which is no error."""
    text = command.text.replace("localhost:8080", http.removeprefix("http://"))
    script = f'syncline() {{ "{sys.executable}" -m syncline "$@"; }}\n{text}'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    if text.startswith("curl"):
        assert "error" not in json.loads(done.stdout), done.stdout


def test_make_targets_exist() -> None:
    """Every `make` command names a target of the Makefile."""
    named = {word for c in COMMANDS for word in re.findall(r"\bmake (\w+)", c.text)}
    assert named >= {"demo", "up", "check", "test", "bench"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)
