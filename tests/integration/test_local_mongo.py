"""The local MongoDB: starts, refuses what cannot be, keeps its data, and never outlives us."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pymongo import MongoClient

from syncline.errors import Misconfigured
from syncline.local import process
from syncline.local.mongo import LocalMongo, start_mongo

Start = Callable[..., LocalMongo]


def test_data_survives_a_restart(start_server: Start, tmp_path: Path) -> None:
    """What was written is there when a server starts on the same directory; stop twice is once."""
    server = start_server(data_dir=tmp_path)
    with MongoClient[dict[str, int]](server.uri) as client:
        client["d"]["c"].insert_one({"_id": 1})
    server.stop()
    server.stop()
    assert server.process.has_ended()
    with MongoClient[dict[str, int]](start_server(data_dir=tmp_path).uri) as client:
        assert client["d"]["c"].find_one() == {"_id": 1}


def test_directory_in_use(
    start_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second server on the same directory is refused, and does not disturb the first."""
    server = start_server(data_dir=tmp_path)
    monkeypatch.setattr(process, "LOCK_SECONDS", 0.2)
    with pytest.raises(Misconfigured, match="another local mongo server"):
        start_mongo(tmp_path)
    assert not server.process.has_ended()


def test_port_in_use(start_server: Start, tmp_path: Path) -> None:
    """A taken port is refused by number, and the directory is free again."""
    port = int(start_server().uri.rsplit(":", 1)[1].rstrip("/"))
    with pytest.raises(Misconfigured, match=f"local.mongo_port = {port}"):
        start_mongo(tmp_path, port)
    start_server(data_dir=tmp_path)


def test_server_that_does_not_start(tmp_path: Path) -> None:
    """Its last words are in the error."""
    with pytest.raises(Misconfigured, match="unrecognized arguments: --nonsense"):
        start_mongo(tmp_path, flags=["--nonsense"])


def test_program_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the remedy names it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match=r"syncline\[local\]"):
        start_mongo(tmp_path)


OWNER = """
import sys
from pathlib import Path
from syncline.local.mongo import start_mongo
server = start_mongo(Path(sys.argv[1]))
print(server.process.pid, flush=True)
sys.stdin.read()
"""


def test_dies_with_a_killed_owner(start_server: Start, tmp_path: Path) -> None:
    """An owner killed with -9 leaves no server, and its directory can be used again at once."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with owner:
        assert owner.stdout is not None
        group = int(owner.stdout.readline())
        owner.kill()
    start_server(data_dir=tmp_path)
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)
        raise AssertionError("the server outlived its owner")
