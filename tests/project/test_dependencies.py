"""What `pyproject.toml` declares, `constraints.txt` pins and the code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from syncline import __version__

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("connectors", "flows", "models", "retriever", "syncline", "transforms")
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normalised(re.split(r"[\[<>=~!; ]", one)[0]) for one in requirements}


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def imported() -> set[str]:
    """Top-level names that the packages import, wherever in the code."""
    found: set[str] = set()
    for path in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def test_everything_declared_is_pinned() -> None:
    """Each dependency of each extra has an exact version."""
    declared = names(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        declared |= names(extra)
    assert declared <= {normalised(line.partition("==")[0]) for line in pins()}


def test_pins_are_exact_and_for_every_platform() -> None:
    """One plain version a line: no build labels, no files, nothing that only CUDA needs."""
    for line in pins():
        assert PIN.fullmatch(line), line
        assert not line.lower().startswith(("nvidia", "cuda", "triton")), line


def test_everything_imported_is_declared() -> None:
    """No import leans on what another package happens to bring, but for what is named here."""
    brought = {
        "bson": "pymongo",
        "grpc": "qdrant-client",
        "pydantic_core": "pydantic",
        "starlette": "fastapi",
        "tenacity": "stamina",
        "transformers": "sentence-transformers",
    }
    # The extra `rich` need not be installed for this test.
    optional = {"unstructured": "unstructured", "spacy": "spacy", "pdfminer": "pdfminer-six"}
    declared = names(PROJECT["dependencies"])
    for extra in ("local", "rich"):
        declared |= names(PROJECT["optional-dependencies"][extra])
    owners = packages_distributions()
    for name in imported():
        found = {brought[name]} if name in brought else {optional.get(name, "")}
        found |= {normalised(owner) for owner in owners.get(name, ())}
        assert found & declared, name


def test_the_version_has_its_changes() -> None:
    """The newest released section of the changelog is the version of the package."""
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


def test_the_licence_is_what_is_declared() -> None:
    """Apache-2.0, whole."""
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
