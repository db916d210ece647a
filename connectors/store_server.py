"""Serves a store to other processes of this machine, over a Unix socket.

For the engine that opens in one process only. Whoever may open the socket may do anything with the
store, so its file is its owner's (0600), in a directory that is (0700); there is no other check.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from pathlib import Path

import structlog

from connectors.store import Store
from connectors.store_wire import (
    Frame,
    Unreadable,
    decode_call,
    encode_answer,
    encode_error,
    read_frame,
)
from syncline.errors import Misconfigured, SynclineError

_log = structlog.get_logger(__name__)

MAX_PATH_BYTES = 103
"""A socket's address holds 108 bytes on Linux and 104 on macOS, with a zero at the end."""
STOP_SECONDS = 5.0
"""How long calls in work may take to end; a client that does not read its answer is cut off."""
_PAUSE_SECONDS = 0.2


class StoreServer:
    """Answers the calls of any number of `RemoteStore`s on `path`, a thread a client.

    The store stays its owner's: who closes it stops this first. A client that dies, stalls or
    sends what is no call harms only itself.
    """

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._stopping = threading.Event()

    def start(self) -> None:
        """Listen. A socket file that a killed owner left is replaced; the directory is made.

        Raises `Misconfigured` if the path is too long or served already, or the directory is open
        to others.
        """
        self._listener = _listen(self._path)
        accepting = threading.Thread(
            target=self._accept, args=(self._listener,), name="store-server", daemon=True
        )
        accepting.start()

    def stop(self) -> None:
        """Take no more calls, answer those in work, hang up. Again: nothing."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._stopping.set()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # macOS does not know it here, and wakes at close
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self._hang_up(socket.SHUT_RD, STOP_SECONDS)
        self._hang_up(socket.SHUT_RDWR, 1.0)

    def _hang_up(self, how: int, seconds: float) -> None:
        with self._lock:
            clients = dict(self._clients)
        for connection in clients:
            with contextlib.suppress(OSError):  # it has hung up itself
                connection.shutdown(how)
        deadline = time.monotonic() + seconds
        for thread in clients.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if not self._stopping.wait(_PAUSE_SECONDS):
                    _log.warning("store_client_not_accepted", reason=str(error))
                continue
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="store-client", daemon=True
            )
            with self._lock:
                if self._stopping.is_set():
                    connection.close()
                    return
                self._clients[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while (frame := read_frame(stream)) is not None:
                    connection.sendall(self._answer(frame))
        except (OSError, EOFError):
            pass  # it has died, or a stop cut it off: nobody is left to be told
        except Unreadable as error:
            _log.warning("store_client_unreadable", reason=str(error))
        finally:
            with self._lock:
                self._clients.pop(connection, None)

    def _answer(self, frame: Frame) -> bytes:
        try:
            method, arguments = decode_call(frame)
            return encode_answer(method, getattr(self._store, method)(**arguments))
        except Unreadable as error:
            return encode_error(
                Misconfigured(
                    f"the index's owner does not know this call ({error})",
                    "run the same version of Syncline in all processes",
                    code="versions_differ",
                )
            )
        except SynclineError as error:
            return encode_error(error)
        except Exception as error:  # told to the caller, who would wait for ever for a dead thread
            _log.exception("store_call_failed")
            return encode_error(
                Misconfigured(
                    f"the index's owner failed: {type(error).__name__}: {error}",
                    "see the log of the process that owns the index",
                    code="fault",
                )
            )


def check_path(path: Path) -> None:
    """Raises `Misconfigured` if a Unix socket cannot have this path."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise Misconfigured(
            f"{path} has {size} bytes, a Unix socket's path has at most {MAX_PATH_BYTES}",
            "choose a local.data_dir with a shorter path",
        )


def _listen(path: Path) -> socket.socket:
    check_path(path)
    _check_directory(path.parent)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)  # before anyone can connect, which takes `listen`
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"{path} cannot be listened on: {error.strerror}", "check local.data_dir"
        ) from error
    return listener


def _check_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise Misconfigured(
            f"{directory} cannot be made: {error.strerror}", "check local.data_dir"
        ) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Misconfigured(
            f"{directory} is open to other users, and who reaches the socket in it can change"
            " the index",
            f"make it your own: chmod 700 {directory}",
        )


def _remove_stale(path: Path) -> None:
    """A socket that nobody listens on is what a killed owner left."""
    if path.exists() and not path.is_socket():
        raise Misconfigured(f"{path} is there and no socket", "remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Misconfigured(f"{path} cannot be used: {error.strerror}", "remove it") from error
        else:
            raise Misconfigured(
                f"{path} is served by another process",
                "stop the other `syncline` on this data"
                " directory, or choose another local.data_dir",
                code="data_in_use",
            )
