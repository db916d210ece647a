"""Runs the HTTP service in a thread, on a socket that is bound before anything is announced."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Any

import uvicorn

from syncline.errors import Misconfigured
from syncline.settings import HttpSettings


def check_exposure(http: HttpSettings) -> None:
    """Refuse to show documents to a network without a key.

    Raises `Misconfigured` where `http.host` is beyond loopback, `http.api_key` is empty, and
    `http.allow_anonymous` does not say that this is meant.
    """
    if not (http.api_key.get_secret_value() or http.allow_anonymous or _is_loopback(http.host)):
        raise Misconfigured(
            f"http.host = {http.host!r} is beyond this machine, and http.api_key is empty",
            "set http.api_key (SYNCLINE_HTTP_API_KEY), or http.allow_anonymous = true if everyone "
            "who reaches the port may read the documents",
        )


def bind(http: HttpSettings) -> HttpServer:
    """A server on `http.host` and `http.port`, not yet started. Raises `Misconfigured`."""
    check_exposure(http)
    return HttpServer(http.host, http.port)


def _is_loopback(host: str) -> bool:
    """A name other than localhost may lead anywhere, and the empty one means every address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HttpServer:
    """An ASGI app on a bound socket. `port` is the real one also when 0 was asked for."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With the protocol named, asyncio turns Nagle's algorithm off; else each answer on a
        # kept connection waits some 40 ms for a delayed acknowledgement.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise Misconfigured(
                f"http.port = {port} on {host} cannot be used: {error.strerror}",
                "stop what listens there, or choose another port (0 picks a free one)",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: Any) -> None:
        """Serve until `stop`."""
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="off"
        )
        # Before the thread runs: from the moment this returns, a connection waits for its answer
        # instead of being refused.
        self._socket.listen(config.backlog)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="syncline-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answer what is in flight, for at most a second or so, and close."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(3)
        self._socket.close()
