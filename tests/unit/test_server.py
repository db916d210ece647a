"""The HTTP service's socket."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from typing import Any

import pytest
from pydantic import SecretStr

from syncline.errors import Misconfigured
from syncline.server import HttpServer, check_exposure
from syncline.settings import HttpSettings


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


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [
        *((host, False) for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost")),
        *((host, True) for host in ("0.0.0.0", "::", "", "192.168.0.7", "example.org")),
    ],
)
def test_documents_are_not_shown_to_a_network_without_a_key(host: str, is_refused: bool) -> None:
    """Beyond loopback a key is asked for, unless the settings say that none is meant."""
    refused = pytest.raises(Misconfigured, match=r"http\.host") if is_refused else nullcontext()
    with refused:
        check_exposure(HttpSettings(host=host))
    check_exposure(HttpSettings(host=host, api_key=SecretStr("key")))
    check_exposure(HttpSettings(host=host, allow_anonymous=True))
