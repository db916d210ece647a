"""README is true: its settings are accepted, its tour ends well (`test_commands`: its commands)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.settings import load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


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
