"""The HTTP service's socket."""

from __future__ import annotations

import socket
from typing import Any

from syncline.server import HttpServer


async def empty(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything with nothing."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_it_listens_from_the_moment_it_is_started() -> None:
    """A connection right after `start` waits for its answer and is not refused; tried often,
    because the serving thread may be quick."""
    for _ in range(20):
        server = HttpServer("127.0.0.1", 0)
        server.start(empty)
        try:
            socket.create_connection(("127.0.0.1", server.port), 5).close()
        finally:
            server.stop()
