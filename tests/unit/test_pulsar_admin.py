"""The backlog as the admin API tells it, against answers in the form that Pulsar documents."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from connectors.pulsar_admin import Backlog

TOPICS = [f"persistent://public/default/syncline-partition-{k}" for k in range(2)]


class Admin:
    """An admin API that answers from a dict and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str | None]] = []
        admin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                admin.asked.append((self.path, self.headers["Authorization"]))
                found = admin.answers.get(self.path)
                self.send_response(200 if found is not None else 404)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def admin() -> Iterator[Admin]:
    made = Admin()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def backlog(admin: Admin) -> Iterator[Backlog]:
    made = Backlog(admin.url, TOPICS, "syncline-index", token="secret")
    yield made
    made.close()


def stats(backlog: int) -> dict[str, Any]:
    other = {"msgBacklog": 900}
    return {"subscriptions": {"syncline-index": {"msgBacklog": backlog}, "other": other}}


def path(partition: int) -> str:
    return f"/admin/v2/persistent/public/default/syncline-partition-{partition}/stats"


def test_it_is_the_sum_over_the_partitions(admin: Admin, backlog: Backlog) -> None:
    """Of our subscription alone, asked with the token."""
    admin.answers = {path(0): stats(3), path(1): stats(4)}
    assert backlog.messages() == 7
    assert admin.asked == [(path(0), "Bearer secret"), (path(1), "Bearer secret")]


def test_a_part_of_the_sum_is_no_sum(admin: Admin, backlog: Backlog) -> None:
    """While one partition is unknown, so is the backlog: less than there is would lie."""
    admin.answers = {path(0): stats(3)}
    assert backlog.messages() is None
    admin.answers = {path(0): stats(3), path(1): {"subscriptions": {}}}
    assert Backlog(admin.url, TOPICS, "syncline-index").messages() is None


def test_an_answer_is_not_asked_for_again_at_once(admin: Admin, backlog: Backlog) -> None:
    """Many readers of the status do not become many requests."""
    admin.answers = {path(0): stats(3), path(1): stats(4)}
    assert [backlog.messages() for _ in range(5)] == [7] * 5
    assert len(admin.asked) == 2


def test_an_api_that_is_away_is_unknown() -> None:
    """Nothing listens: no error, no figure."""
    assert Backlog("http://127.0.0.1:9", TOPICS, "syncline-index").messages() is None
