"""Payload field paths in Qdrant's JSON path notation, for its engine and its servers alike.

Pure. A name of letters, digits, `_` and `-` stands bare, any other is quoted. Qdrant's notation
has no escapes: a name that contains a quote or a backslash is stored and read back like any
other, but no filter and no index can address it (`addressable`).
"""

from __future__ import annotations

import re

from models.conditions import Path
from syncline.errors import Misconfigured

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STEP = re.compile(r'(?:^|\.)(?:"([^"\\]*)"|([^."\\]+))')


def addressable(path: Path) -> bool:
    """Whether Qdrant has a notation for `path`: no name contains a quote or a backslash."""
    return bool(path) and not any('"' in name or "\\" in name for name in path)


def json_path(path: Path) -> str:
    """`path` as Qdrant writes it. Raises `Misconfigured` where it has no notation."""
    if not addressable(path):
        raise Misconfigured(
            f"the field {'.'.join(path)!r} cannot be filtered by: Qdrant cannot address a name"
            ' that contains " or \\',
            "give the field another name in the mapping",
        )
    return ".".join(name if _BARE.fullmatch(name) else f'"{name}"' for name in path)


def parse_json_path(text: str) -> Path:
    """Inverse of `json_path`; also of Qdrant's own spelling, which quotes a little less."""
    return tuple(quoted or bare for quoted, bare in _STEP.findall(text))
