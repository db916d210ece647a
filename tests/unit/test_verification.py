"""Following a comparison that runs in another process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from syncline.client import Client
from syncline.errors import Unavailable
from syncline.verification import following

AT_WORK = {"running": True, "compared": "documents", "done": 3, "of": 10}


class Scripted(Client):
    """Answers with what is scripted, then not at all."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.is_over = threading.Event()
        self._answers = self._script(answers)

    def verifying(self) -> dict[str, Any]:
        return next(self._answers)

    def _script(self, answers: tuple[dict[str, Any], ...]) -> Iterator[dict[str, Any]]:
        yield from answers
        self.is_over.set()
        raise Unavailable("syncline", "nothing answers")


def test_progress_is_told_while_it_waits() -> None:
    """What the process says is passed on; silence ends the telling and nothing else."""
    told: list[tuple[int, int, str]] = []
    with Scripted({"running": True}, AT_WORK) as client:
        with following(client, lambda *facts: told.append(facts)):
            assert client.is_over.wait(10)
        assert told == [(3, 10, "documents")]


def test_an_error_of_the_comparison_ends_the_following() -> None:
    """No thread is left behind that asks for ever."""
    with Scripted(*[AT_WORK] * 10_000) as client:
        with pytest.raises(Unavailable), following(client, lambda *facts: None):
            raise Unavailable("mongo", "no primary")
        names = {thread.name for thread in threading.enumerate()}
        assert "syncline-progress" not in names
