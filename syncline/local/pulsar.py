"""The local broker: Pulsar Lite, which speaks Pulsar's protocol, as its own process."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from syncline.errors import Misconfigured
from syncline.local.process import LocalProcess, choose_port, lock_directory

READY_SECONDS = 20.0
"""It takes a tenth of a second on an idle machine; recovering a large log takes longer."""


class LocalPulsar(NamedTuple):
    """A running broker."""

    url: str
    process: LocalProcess

    def stop(self) -> None:
        """End it; all that was confirmed is kept."""
        self.process.stop()


def start_pulsar(data_dir: Path, port: int = 0, *, flags: Sequence[str] = ()) -> LocalPulsar:
    """Start the broker on 127.0.0.1 with its data below `data_dir`, and wait until it answers.

    Port 0 picks a free one. Raises `Misconfigured` if the extra `local` is not installed, the port
    is taken, another broker uses the directory, or it does not start (with its last words).
    """
    program = find_program()
    lock = lock_directory(data_dir, "pulsar")
    try:
        port = choose_port(port, "the local broker's port")
        process = LocalProcess(
            _command(program, data_dir, port, flags), log=data_dir / "pulsar.log", lock=lock
        )
    except BaseException:
        lock.close()
        raise
    broker = LocalPulsar(f"pulsar://127.0.0.1:{port}", process)
    try:
        _wait_until_ready(broker, port)
    except BaseException:
        broker.stop()
        raise
    return broker


def _command(program: str, data_dir: Path, port: int, flags: Sequence[str]) -> list[str]:
    # A file of our own, because it would read one that lies around, and because without one it
    # serves metrics on a fixed port.
    configuration = data_dir / "pulsar.toml"
    configuration.write_text("[metrics]\nenabled = false\n", encoding="utf-8")
    return [
        program,
        *("--config", str(configuration), "--addr", f"127.0.0.1:{port}"),
        *("--db-path", str(data_dir / "pulsar"), "--log-level", "warn", *flags),
    ]


def find_program() -> str:
    """The broker's binary. Raises `Misconfigured` if it is not installed."""
    try:
        from pulsar_lite.binary_finder import find_pulsar_lite_binary

        return str(find_pulsar_lite_binary())
    except (ImportError, FileNotFoundError) as error:
        raise Misconfigured(
            "no Pulsar is configured, and the local one is not installed",
            'pip install "syncline[local]", or set pulsar.url',
            code="local_part_missing",
        ) from error


def _wait_until_ready(broker: LocalPulsar, port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if broker.process.has_ended() or time.monotonic() > deadline:
            raise Misconfigured(
                f"the local Pulsar does not start:\n{broker.process.last_words()}",
                "see its log, pulsar.log in local.data_dir/pulsar, or set pulsar.url",
                code="local_part_failed",
            )
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.5):
                return
        except OSError:
            time.sleep(0.02)
