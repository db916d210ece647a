"""One process that is kept alive: real processes, with a stand-in for what they run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from syncline import child as module
from syncline.child import Child
from tests.integration.test_scenarios import alive, eventually

# The command says how far it comes.
PROGRAM = """
import json, os, pathlib, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

class Server(HTTPServer):
    request_queue_size = 100

command, home = sys.argv[1], pathlib.Path(sys.argv[3])
if command != "starting":
    server = Server(("127.0.0.1", 0), Answer)
    facts = {"pid": os.getpid(), "http": f"http://127.0.0.1:{server.server_port}"}
    (home / "run.json").write_text(json.dumps(facts))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if command == "ending":
        (home / "run.json").unlink()
        sys.exit(1)
time.sleep(60)
"""


Start = Callable[[str], Child]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts such a child, which is taken for hung after half a second."""
    monkeypatch.setattr(module, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(module, "HUNG_SECONDS", 0.5)
    package = tmp_path / "program" / "syncline"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"}
    with ExitStack() as stack:

        def start(command: str) -> Child:
            child = Child("c", lambda: [command], environment, tmp_path / "home")
            stack.callback(child.stop)
            child.start()
            return child

        yield start


def pid(child: Child) -> int:
    """Of the process itself, once it is ready."""
    return int(eventually(lambda: child.facts().get("pid")))


def starts_again(child: Child, before: int) -> bool:
    """Whether another process is ready in its place."""
    child.keep_alive()
    found: int = child.facts().get("pid", before)
    return found != before


def test_a_killed_guard_takes_its_child_along(start: Start) -> None:
    """What it left neither lives on nor keeps the directory from the next one."""
    child = start("answering")
    orphan = pid(child)
    os.kill(os.getpgid(orphan), signal.SIGKILL)
    assert eventually(child.keep_alive, 5)
    eventually(lambda: starts_again(child, orphan), 5)
    assert not alive(orphan)


def test_one_that_hangs_is_killed_and_started_again(start: Start) -> None:
    """A stopped process listens and does not answer; what it held is to be let go of."""
    child = start("answering")
    hung = pid(child)
    os.kill(hung, signal.SIGSTOP)
    assert eventually(child.keep_alive, 5)
    eventually(lambda: starts_again(child, hung), 5)
    assert not alive(hung)


@pytest.mark.parametrize("command", ["answering", "starting"])
def test_one_that_answers_or_starts_is_left_alone(start: Start, command: str) -> None:
    """Only silence after the announcement counts, however long the start takes."""
    child = start(command)
    until = time.monotonic() + 3 * module.HUNG_SECONDS
    while time.monotonic() < until:
        assert not child.keep_alive()
        assert child.runs


def test_one_that_ended_in_order_holds_nothing(start: Start) -> None:
    """Nobody has to let go of anything for it; it is started again all the same."""
    child = start("ending")
    eventually(lambda: child.keep_alive() or not child.runs, 5)
    assert not child.runs
    eventually(lambda: child.keep_alive() or child.runs, 5)
    assert child.runs
