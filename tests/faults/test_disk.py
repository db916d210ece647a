"""A data directory without space, or that cannot be written: a clear stop and a clean restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from connectors.qdrant_edge import EdgeStore
from connectors.store import Point
from models.ids import single_id
from models.points import OWN

UP = [sys.executable, "-m", "syncline", "up", "--mongo-port", "0", "--http-port", "0"]
ENVIRONMENT = {
    **os.environ,
    "SYNCLINE_EMBEDDER_MODEL": "hash:64",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}
SECONDS = 60.0


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """A small file system of one's own; a visible skip where nobody may mount one."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def up(data_dir: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`syncline up` in a process of its own, ended afterwards."""
    process = subprocess.Popen(
        [*UP, "--data-dir", str(data_dir), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **variables},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it announces."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    facts: dict[str, Any] = json.loads(line)
    return facts


def refused(process: subprocess.Popen[str], code: int = 2) -> str:
    """What it says when it ends with an error made for people."""
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == code, told
    assert "remedy" in told
    assert "Traceback" not in told
    return told


def fill(uri: str, stored: list[str], ended: threading.Event) -> None:
    """Write documents until the server is gone, and note which were acknowledged."""
    ballast = b"x" * 100_000  # which the index does not hold
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=500) as client:
        while not ended.is_set():
            names = [f"{len(stored) + n}" for n in range(5)]
            try:
                client["syncline"]["a"].insert_many(
                    {"_id": n, "text": f"Document {n}.", "ballast": ballast} for n in names
                )
            except PyMongoError:
                return
            stored += names


def test_disk_that_fills_up(tmp_path: Path) -> None:
    """It stops before the disk is full, says which and what to do, and goes on once there is
    space: whatever was acknowledged is found, and nothing differs."""
    with mounted(tmp_path / "disk", "size=120m") as disk:
        data, stored, ended = disk / "data", list[str](), threading.Event()
        with up(data, SYNCLINE_LOCAL_MIN_FREE_MB="40") as process:
            uri = ready(process)["mongo"]
            writer = threading.Thread(target=fill, args=(uri, stored, ended))
            writer.start()
            try:
                told = refused(process)
            finally:
                ended.set()
                writer.join()
        assert str(data) in told
        assert stored
        with up(data, SYNCLINE_LOCAL_MIN_FREE_MB="40") as process:
            assert str(data) in refused(process)
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        with up(data, SYNCLINE_LOCAL_MIN_FREE_MB="40") as process:
            with MongoClient[dict[str, Any]](ready(process)["mongo"]) as client:
                found = {d["_id"] for d in client["syncline"]["a"].find({}, {"_id": 1})}
            assert found >= {*stored}
            verify = [sys.executable, "-m", "syncline", "verify", "--deep", "--json"]
            verify += ["--data-dir", str(data)]
            done = subprocess.run(verify, env=ENVIRONMENT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
            assert json.loads(done.stdout)["documents"] == len(found)


def test_read_only_directory(tmp_path: Path) -> None:
    """It is refused at once, by name."""
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "data").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with up(disk / "data") as process:
            assert str(disk / "data") in refused(process)


def test_position_that_cannot_be_read(tmp_path: Path) -> None:
    """Where nothing is to be read again unasked, it stops the flow with one clear error."""
    option = ("--on-lost-history", "fail")
    with up(tmp_path, *option) as process:
        ready(process)
    store = EdgeStore(tmp_path / "index" / "syncline")
    broken = {OWN: {"kind": "position", "record": {"scope": "s", "start": [1]}}}
    store.upsert([Point(single_id("position"), broken)])
    store.close()
    with up(tmp_path, *option) as process:
        assert "position in the index cannot be read" in refused(process, code=3)
