"""Stands before the application: who may come in, and how much they may bring."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retriever.responses import error

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
"""What needs no key: the page and the documentation hold no data, and probes carry no secrets.
A list of what is open, so that anything new is closed."""
LARGEST_BODY = 1_000_000
"""Bytes. A query has 10,000 characters at most; the rest is room for long filters."""


class Guard:
    """ASGI middleware: 401 without the API key (if one is set), 413 for an oversized body."""

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body already read, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._may_enter(scope):
            refusal = error(401, "this needs the API key", headers={"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
        elif (body := await _read_body(receive)) is None:
            problem = f"larger than {LARGEST_BODY:,} bytes"
            await error(413, problem, field="body")(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    def _may_enter(self, scope: Scope) -> bool:
        if not self._key or scope["path"] in OPEN_PATHS:
            return True
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("latin-1"), self._key)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None if it is too large. Short if the client goes away."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
