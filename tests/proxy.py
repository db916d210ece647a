"""A proxy in front of a server, TCP or Unix socket, that does what networks do when they fail."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

CHUNK = 65_536

Address = tuple[str, int] | Path


class Proxy:
    """Forwards to `target`, as a context. A thread per direction of each connection.

    `cut` and `refuse` end connections, `stall` leaves them half-open, `slow` takes time for every
    chunk, `truncate` cuts one within a large reply. `heal` ends whatever was begun.
    """

    def __init__(self, target: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self._target = target
        self._listener = _listen(listen)
        self.address: Address = listen
        if not isinstance(listen, Path):
            self.address = self._listener.getsockname()
        self._pairs: list[_Pair] = []
        self._changed = threading.Condition()
        self._stalled = False
        self._delay = 0.0
        self._truncate_above: int | None = None
        self.truncated = 0
        """How many replies were cut within."""
        self.connections = 0
        """How many were accepted, or refused by hanging up, so far."""

    @property
    def port(self) -> int:
        """The TCP port to connect to."""
        assert not isinstance(self.address, Path)
        return self.address[1]

    def __enter__(self) -> Proxy:
        self._accept_with(self._listener)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()

    # --- faults -----------------------------------------------------------------------------

    def cut(self) -> None:
        """Hang up on everybody; who connects anew is served."""
        with self._changed:
            pairs, self._pairs = self._pairs, []
            for pair in pairs:
                pair.hang_up()
            self._changed.notify_all()

    def refuse(self) -> None:
        """Hang up, and let nobody connect."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)
        self.cut()

    def stall(self) -> None:
        """Accept and forward nothing, in new connections and in those that are there."""
        with self._changed:
            self._stalled = True

    def slow(self, seconds: float) -> None:
        """Take so long for every chunk."""
        self._delay = seconds

    def truncate(self, above: int) -> None:
        """Of the next chunk of a reply with more bytes than `above`, forward half and hang up."""
        self._truncate_above = above

    def heal(self) -> None:
        """Serve as if nothing had been."""
        self._delay, self._truncate_above = 0.0, None
        if self._listener.fileno() < 0:
            self._listener = _listen(self.address)
            self._accept_with(self._listener)
        with self._changed:
            self._stalled = False
            self._changed.notify_all()

    # --- forwarding -------------------------------------------------------------------------

    def _accept_with(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections += 1
                try:
                    pair = _Pair(client, _connect(self._target))
                except OSError:
                    client.close()
                    continue
                with self._changed:
                    self._pairs.append(pair)
                for is_reply in (False, True):
                    forward = (pair, is_reply)
                    threading.Thread(target=self._forward, args=forward, daemon=True).start()

    def _forward(self, pair: _Pair, is_reply: bool) -> None:
        source, sink = (pair.server, pair.client) if is_reply else (pair.client, pair.server)
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                with self._changed:
                    self._changed.wait_for(lambda: not self._stalled or pair.is_over)
                time.sleep(self._delay)
                if is_reply and self._is_to_be_truncated(data):
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        pair.hang_up()

    def _is_to_be_truncated(self, data: bytes) -> bool:
        with self._changed:
            if self._truncate_above is None or len(data) <= self._truncate_above:
                return False
            self._truncate_above = None
            self.truncated += 1
            return True


class _Pair:
    """A client's connection and its own to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.is_over = False

    def hang_up(self) -> None:
        self.is_over = True
        for connection in (self.client, self.server):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _listen(address: Address) -> socket.socket:
    if isinstance(address, Path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(address))
        listener.listen()
        return listener
    return socket.create_server(address)


def _connect(address: Address) -> socket.socket:
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.fspath(address))
        return connection
    return socket.create_connection(address)
