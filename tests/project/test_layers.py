"""The import contracts cover the whole project (`make check` holds them)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def test_every_module_of_syncline_is_in_one_layer() -> None:
    """A new module is either an entry at the top or a base at the bottom; someone has to say."""
    layers = next(one["layers"] for one in LINTER["contracts"] if one["type"] == "layers")
    placed = [name for layer in layers for name in re.findall(r"syncline\.(\w+)", layer)]
    folder = ROOT / "syncline"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(placed) == sorted(modules)


def test_every_package_is_under_contract() -> None:
    """Each top-level package that is shipped is one that import-linter reads."""
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert LINTER["root_packages"] == shipped["targets"]["wheel"]["packages"]
