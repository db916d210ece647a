"""`syncline reindex` as a user runs it: with a running process, killed amid it, and without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from syncline.client import Client
from syncline.running import running
from tests.pipeline import paragraphs
from tests.sourcing import eventually


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "syncline", "reindex", *words]


def reindex(*words: str) -> Any:
    """Its answer in JSON; exit code 0."""
    done = subprocess.run(command("--json", *words), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that every process reads its settings from."""
    file = tmp_path / "syncline.toml"
    monkeypatch.setenv("SYNCLINE_CONFIG", str(file))
    write(file, 24)
    return file


def write(file: Path, max_tokens: int) -> None:
    file.write_text(f'[embedder]\nmodel = "hash:64"\n[chunker]\nmax_tokens = {max_tokens}\n')


def test_reindexed_killed_and_reindexed_without_a_process(settings: Path, tmp_path: Path) -> None:
    """Changed settings are built by the running process; kill -9 amid the next build, and a start
    finishes it; a third is built with no process; each time nothing drifts."""
    where = ("--data-dir", str(tmp_path))
    with running(tmp_path) as facts, Client(facts["http"]) as http:
        with MongoClient[Any](facts["mongo"]) as mongo:
            texts = [{"_id": n, "text": paragraphs(n % 30)} for n in range(60)]
            mongo["syncline"]["notes"].insert_many(texts)
        eventually(lambda: http.status()["documents"]["indexed"] == 60, 60)
        write(settings, 40)
        told = reindex(*where)
        assert (told["serving"]["chunk_tokens"], told["building"]) == (40, None)
        assert http.verify(deep=True, repair=False)["in_sync"]
        write(settings, 60)
        http.reindex(abandon=False)
        os.kill(facts["pid"], signal.SIGKILL)
    with running(tmp_path) as facts, Client(facts["http"]) as http:
        eventually(lambda: http.status()["serving"]["chunk_tokens"] == 60, 60)
        assert http.verify(deep=True, repair=False)["in_sync"]
        assert http.search("keeper")["hits"]
    write(settings, 24)
    assert reindex(*where)["serving"]["chunk_tokens"] == 24
    stored = reindex("--status", *where)
    assert stored["serving"]["chunk_tokens"] == 24 and stored["unfinished"] == []
    assert {index["chunk_tokens"] for index in stored["retired"]} == {40, 60}


class Forever(BaseHTTPRequestHandler):
    """A Syncline that never comes to an end with building."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        index = {"collection": "syncline-b", "model": "m", "chunk_tokens": 8}
        held: Any = {"documents": {"indexed": 1, "failed": 0}, "state": "streaming"}
        building = {**index, **held, "error": None}
        body = json.dumps({**held, "serving": index, "building": building, "retired": []})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
        if self.command == "GET":
            self.server.asked.set()  # type: ignore[attr-defined]

    do_GET = do_POST = _answer  # noqa: N815 - names that http.server calls

    def log_message(self, *args: object) -> None:
        """Nothing: a test's output is its own."""


@pytest.fixture
def forever() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forever) as server:
        server.asked = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_interrupt_ends_only_the_watching(forever: ThreadingHTTPServer) -> None:
    """Ctrl-C: exit code 130, nothing on stdout, and that it goes on is said."""
    url = f"http://127.0.0.1:{forever.server_port}"
    watching = subprocess.Popen(
        command("--url", url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert forever.asked.wait(60)  # type: ignore[attr-defined]
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=20)
    assert watching.returncode == 130, err
    assert out == "" and "goes on" in err and "Traceback" not in err
