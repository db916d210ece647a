"""Real text that is on every machine: for measuring on what people write."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncline.sample import sample_documents

_LEAST_CHARACTERS = 500


def real_documents() -> list[dict[str, Any]]:
    """The sample documents and the standard library's module documentation: 300 and more."""
    documents = [
        {**document, "_id": f"{collection}/{document['_id']}"}
        for collection, document in sample_documents()
    ]
    return documents + list(_module_documentation())


def real_paragraphs(count: int) -> list[str]:
    """`count` different paragraphs of these documents."""
    found: dict[str, None] = {}
    for document in real_documents():
        for paragraph in document["text"].split("\n\n"):
            text = " ".join(paragraph.split())
            if 80 < len(text) < 2_000:
                found[text] = None
    texts = list(found)
    return [f"{texts[n % len(texts)]} ({n})" for n in range(count)]


def _module_documentation() -> Iterator[dict[str, Any]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if path.parent.name in {"site-packages", "test", "idlelib"}:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        texts = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, _DOCUMENTED)]
        text = "\n\n".join(t for t in texts if t)
        if len(text) > _LEAST_CHARACTERS:
            name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            yield {"_id": f"stdlib/{name}", "title": name, "text": text, "python": sys.version[:4]}


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
