"""The page at `/`: one file that loads nothing else; and how such pages are served."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from pathlib import Path

from starlette.responses import HTMLResponse

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def load_page() -> HTMLResponse:
    """The page to search by hand."""
    return as_page(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def as_page(html: str) -> HTMLResponse:
    """A page that may run exactly its own script and style and talk to its own origin."""
    headers = {
        "Content-Security-Policy": _policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


def _policy(html: str) -> str:
    sources = "; ".join(f"{kind}-src {_hash(text)}" for kind, text in _INLINE.findall(html))
    return (
        f"default-src 'none'; {sources}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
