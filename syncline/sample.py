"""Real text that every machine has: Python's language reference and installed packages' READMEs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pydoc_data.topics import topics
from typing import Any

MIN_CHARS = 500
"""Shorter texts are stubs that only point elsewhere."""
_MAX_LICENSE_CHARS = 60
"""Some packages put the license's whole text where its name belongs."""


def sample_documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """`(collection, document)`: `python_reference`, then `package_readmes`, each by `_id`.

    The same on every call; what there is depends on the Python and on what is installed.
    """
    for name, text in sorted(topics.items()):
        if len(text) > MIN_CHARS:
            yield "python_reference", _topic(name, text)
    packages = {_normalised(found): found for found in distributions()}
    for name, package in sorted(packages.items()):
        readme = _readme(name, package)
        if len(readme["text"]) > MIN_CHARS:
            yield "package_readmes", readme


def _topic(name: str, text: str) -> dict[str, Any]:
    title = text.strip().partition("\n")[0].replace('"', "")
    kind = "statement" if title.endswith(("statement", "statements")) else "topic"
    return {"_id": name, "title": title, "text": text, "kind": kind}


def _readme(name: str, package: Distribution) -> dict[str, Any]:
    facts = package.metadata.json
    content_type = str(facts.get("description_content_type", ""))
    document = {
        "_id": name,
        "title": str(facts.get("name", name)),
        "text": str(facts.get("description", "")),
        "content_type": "markdown" if "markdown" in content_type else "text",
        "version": package.version,
        "license": _license(facts),
        "keywords": _split(" ".join(facts.get("keywords", ()))),
    }
    return {field: value for field, value in document.items() if value or field == "text"}


def _normalised(package: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()


def _license(facts: dict[str, str | list[str]]) -> str:
    named = str(facts.get("license_expression") or facts.get("license") or "").strip()
    if named and len(named) <= _MAX_LICENSE_CHARS and "\n" not in named:
        return named
    classifiers = [c for c in facts.get("classifier", ()) if c.startswith("License ::")]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else ""


def _split(keywords: str) -> list[str]:
    pieces = keywords.split(",") if "," in keywords else keywords.split()
    return [piece.strip() for piece in pieces if piece.strip()]
