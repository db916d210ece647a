"""The local document database: SecantusDB, which speaks MongoDB's protocol, as its own process."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from syncline.errors import Misconfigured
from syncline.local.process import LocalProcess, choose_port, lock_directory

READY_SECONDS = 30.0
"""It takes one second on an idle machine; recovering a large oplog takes longer."""
OPLOG = ("--oplog-max-entries", "1000000", "--oplog-retention-seconds", str(14 * 86_400))
"""A pause of two weeks loses no history; its heartbeats alone are 86,400 entries a day."""


class LocalMongo(NamedTuple):
    """A running server."""

    uri: str
    process: LocalProcess

    def stop(self) -> None:
        """End it; all that was acknowledged is kept."""
        self.process.stop()


def start_mongo(data_dir: Path, port: int = 0, *, flags: Sequence[str] = ()) -> LocalMongo:
    """Start the server on 127.0.0.1 with its data below `data_dir`, and wait until it answers.

    Port 0 picks a free one. Raises `Misconfigured` if the extra `local` is not installed, the port
    is taken, another server uses the directory, or it does not start (with its last words).
    """
    program = find_program()
    lock = lock_directory(data_dir, "mongo")
    try:
        port = choose_port(port, "local.mongo_port")
        process = LocalProcess(
            _command(program, data_dir, port, flags), log=data_dir / "mongo.log", lock=lock
        )
    except BaseException:
        lock.close()
        raise
    server = LocalMongo(f"mongodb://127.0.0.1:{port}/", process)
    try:
        _wait_until_ready(server)
    except BaseException:
        server.stop()
        raise
    return server


def _command(program: str, data_dir: Path, port: int, flags: Sequence[str]) -> list[str]:
    # An empty file of our own keeps it from reading a configuration that lies around.
    configuration = data_dir / "mongo.toml"
    configuration.touch()
    return [
        program,
        *("--config", str(configuration), "--storage-path", str(data_dir / "mongo")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--noop-heartbeat-seconds", "1", *OPLOG, *flags),
    ]


def find_program() -> str:
    beside = Path(sys.executable).with_name("secantusd-py")
    found = str(beside) if beside.exists() else shutil.which("secantusd-py")
    if found is None:
        raise Misconfigured(
            "no MongoDB is configured, and the local one is not installed",
            'pip install "syncline[local]", or set mongo.uri',
            code="local_part_missing",
        )
    return found


def _wait_until_ready(server: LocalMongo) -> None:
    deadline = time.monotonic() + READY_SECONDS
    client: MongoClient[dict[str, object]]
    with MongoClient(server.uri, serverSelectionTimeoutMS=500) as client:
        while True:
            if server.process.has_ended() or time.monotonic() > deadline:
                raise Misconfigured(
                    f"the local MongoDB does not start:\n{server.process.last_words()}",
                    "see its log, mongo.log in local.data_dir, or set mongo.uri",
                    code="local_part_failed",
                )
            if _is_ready(client):
                return
            time.sleep(0.02)


def _is_ready(client: MongoClient[dict[str, object]]) -> bool:
    try:
        with client["syncline"].watch(max_await_time_ms=1) as stream:
            stream.try_next()
    except OperationFailure:
        # It answers: with --auth or --standalone it refuses this, as it should.
        return True
    except PyMongoError:
        return False
    return True
