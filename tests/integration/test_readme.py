"""README is true: its commands run, its settings are accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from syncline.running import running
from syncline.settings import load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
TARGETS = {"demo", "up", "check", "test", "bench"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    data_dir = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCLINE_EMBEDDER_MODEL", "hash:128")
        patch.setenv("SYNCLINE_LOCAL_DATA_DIR", str(data_dir))
        with running(data_dir) as facts:
            client: MongoClient[dict[str, Any]] = MongoClient(facts["mongo"])
            client["syncline"]["faq"].insert_one({"_id": 1, "text": "How to reset a password."})
            client.close()
            yield facts


def test_readme_has_commands() -> None:
    """The blocks are found, so the tests below run something."""
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("syncline", "curl"))])
def test_its_commands_run(command: str, up: Mapping[str, Any]) -> None:
    """Each command exits 0 against a running Syncline."""
    if command == "syncline up":
        return  # the fixture runs it
    command = command.replace("localhost:8080", up["http"].removeprefix("http://"))
    parts = shlex.split(command)
    if parts[0] == "syncline":
        parts = [sys.executable, "-m", *parts]
    done = subprocess.run(parts, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_its_make_targets_exist() -> None:
    """Every `make` command of README is a target of the Makefile."""
    named = {c.split("make ")[1].split()[0] for c in COMMANDS if "make " in c}
    assert named == TARGETS
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)


def test_its_settings_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The TOML blocks together are a valid syncline.toml."""
    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "syncline.toml"
    file.write_text("\n".join(blocks))
    for name in [n for n in os.environ if n.startswith("SYNCLINE_")]:
        monkeypatch.delenv(name)
    settings = load_settings(file)
    assert settings.mongo.collections == ("articles", "faq")
    assert settings.rule("articles").title == "headline"


def test_the_tour_ends_in_sync() -> None:
    """`syncline demo`, with the stand-in model, tells its steps and exits 0."""
    environment = {**os.environ, "SYNCLINE_EMBEDDER_MODEL": "hash:128"}
    done = subprocess.run(
        [sys.executable, "-m", "syncline", "demo"],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("documents into MongoDB", "edit only a tag", "0 chunks embedded", "in sync"):
        assert words in done.stdout
