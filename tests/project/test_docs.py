"""What the documents claim exists: tests that guarantees name, settings, links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from syncline.settings import Configuration

ROOT = Path(__file__).parents[2]


def test_every_guarantee_names_tests_that_exist() -> None:
    """docs/guarantees.md names single tests, each a function of its file, and some a section."""
    text = (ROOT / "docs/guarantees.md").read_text()
    named = re.findall(r"`(tests/[^`]*?)(?:::(\w+))?`", text)
    assert len(named) >= 30
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path}::{name}"
    for section in text.split("\n## ")[1:]:
        assert "`tests/" in section, section.splitlines()[0]


def test_every_setting_is_documented() -> None:
    """docs/configuration.md lists each key exactly once, and no key that is not there."""
    keys = {
        f"{part}.{key}"
        for part, field in Configuration.model_fields.items()
        if part != "mapping"
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }
    text = (ROOT / "docs/configuration.md").read_text()
    listed = re.findall(r"^\| `(\w+\.\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(keys)
