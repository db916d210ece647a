"""One process on a data directory, and no waiting to be told so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncline.errors import Misconfigured
from syncline.runtime import claim


def test_a_directory_in_use_is_refused_soon_and_with_its_process(tmp_path: Path) -> None:
    """Within two seconds the second one is told who has it; afterwards it is free."""
    directory = tmp_path / "new"
    with claim(directory):
        started = time.monotonic()
        with pytest.raises(Misconfigured, match=f"process {os.getpid()}\n"), claim(directory):
            pass
        assert time.monotonic() - started < 2
    with claim(directory):
        pass


def test_who_was_killed_holds_nothing(tmp_path: Path) -> None:
    """The system frees the directory of a process that could not do it itself."""
    code = (
        "import sys; from pathlib import Path; from syncline.runtime import claim\n"
        "with claim(Path(sys.argv[1])): print('claimed', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        with pytest.raises(Misconfigured, match=f"process {other.pid}\n"), claim(tmp_path):
            pass
        other.kill()
        other.wait()
    with claim(tmp_path):
        pass
