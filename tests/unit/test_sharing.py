"""The socket on which a store is shared: short enough, its owner's, and tidied up."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.memory import MemoryStore
from connectors.store_server import MAX_PATH_BYTES
from syncline.sharing import shared, socket_path


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of a short path; temporary files go below it too."""
    with tempfile.TemporaryDirectory(prefix="s") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield Path(short) / "data"


@pytest.mark.parametrize("below", [".", "long" * 30])
def test_a_killed_process_leaves_nothing_for_long(directory: Path, below: str) -> None:
    """The next one on the same data directory removes its socket, and its own at the end."""
    path = socket_path(directory / below)
    assert len(str(path)) <= MAX_PATH_BYTES
    path.parent.mkdir(mode=0o700, parents=True)
    left = path.with_name("store-1")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    with shared(MemoryStore(), directory / below) as url:
        assert url == f"unix://{path}" and path.is_socket()
        assert not left.exists()
    assert not path.parent.exists()


def test_each_data_directory_has_its_own(directory: Path) -> None:
    """Also those whose sockets do not fit below them."""
    long = directory / ("long" * 30)
    assert len({socket_path(d).parent for d in (directory, long / "a", long / "b")}) == 3
