"""A whole Syncline as a process of its own, for the tour, the tests and the benchmarks."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from syncline.errors import Unavailable


@contextlib.contextmanager
def running(
    data_dir: Path, *options: str, program: Sequence[str] = ("-m", "syncline")
) -> Iterator[Mapping[str, Any]]:
    """`syncline up` as a process of its own on free ports; yields the facts of its ready line.

    `program` is what Python runs.
    """
    command = [sys.executable, *program, "up", "--data-dir", str(data_dir)]
    command += ["--mongo-port", "0", "--http-port", "0", *options]
    log = data_dir / "up.log"
    data_dir.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            process.wait(30)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise Unavailable("syncline up", f"it ended with {process.returncode}:\n{tail}")
        yield json.loads(line)
    finally:
        if (code := process.poll()) is not None:
            with log.open("a", encoding="utf-8") as end:
                end.write(f"it ended by itself with {code}\n")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
