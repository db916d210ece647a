"""Shares a store with the other processes of this machine, on a socket that they can be told of."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from connectors.store import Store
from connectors.store_server import MAX_PATH_BYTES, StoreServer
from models.ids import digest
from syncline.assemble import UNIX


@contextlib.contextmanager
def shared(store: Store, data_dir: Path) -> Iterator[str]:
    """The URL (`unix://<socket>`) of `store` as long as the context runs.

    `data_dir` must be claimed (see `runtime`). Raises `Misconfigured` if there can be no socket.
    """
    path = socket_path(data_dir)
    server = StoreServer(store, path)
    server.start()
    # From here on the directory is known to be our own, and what is left there is of the killed.
    for left in path.parent.glob("store-*"):
        if left != path and left.is_socket():
            left.unlink()
    try:
        yield f"{UNIX}{path}"
    finally:
        server.stop()
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def socket_path(data_dir: Path) -> Path:
    """Below the data directory, or if that is too long for a socket's path, in the system's
    directory for temporary files.

    Each process has a name of its own: children that a killed one left for a moment must not find
    the store of its successor. The directory is always the same, so that it can be tidied up.
    """
    directory, name = data_dir.resolve() / "socket", f"store-{os.getpid()}"
    if len(os.fsencode(directory / name)) > MAX_PATH_BYTES:
        ours = f"syncline-{os.geteuid()}-{digest(str(directory))[:16]}"
        directory = Path(tempfile.gettempdir()) / ours
    return directory / name
