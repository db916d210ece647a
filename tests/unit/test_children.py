"""The watch over several processes: none is forgotten, whatever happens to another."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from syncline.children import Children
from syncline.errors import SynclineError
from tests.integration.test_scenarios import eventually


class Scripted:
    """Answers `keep_alive` by a script: an error is raised, True is a death; then False."""

    def __init__(self, *script: bool | Exception) -> None:
        self.name = "scripted"
        self.script = list(script)
        self.looks = 0

    def start(self) -> None: ...

    def keep_alive(self) -> bool:
        self.looks += 1
        step = self.script.pop(0) if self.script else False
        if isinstance(step, Exception):
            raise step
        return step

    def status(self) -> Mapping[str, Any]:
        return {}

    def ask_to_stop(self) -> None: ...

    def stop(self) -> None: ...


def full() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")


def test_one_that_cannot_be_started_now_is_tried_again() -> None:
    """Too many files is no end of the watch; the other process's death is told all the same."""
    deaths: list[int] = []
    poor, other = Scripted(full(), full()), Scripted(True)
    with Children([other, poor], on_death=lambda: deaths.append(1)) as children:
        eventually(lambda: poor.looks >= 3 and other.looks >= 3)
        assert children.error is None
    assert deaths == [1]


def test_deaths_at_once_are_told_once() -> None:
    """What they held is let go of by one restart of the broker, and a later one by another."""
    deaths: list[int] = []
    both = [Scripted(True), Scripted(True, False, True)]
    with Children(both, on_death=lambda: deaths.append(1)):
        eventually(lambda: both[1].looks >= 4)
    assert deaths == [1, 1]


def test_one_that_cannot_run_ends_the_watch() -> None:
    """Its error is there for whoever waits."""
    broken = Scripted(SynclineError("cannot run"))
    with Children([broken]) as children:
        assert str(eventually(lambda: children.error)) == "cannot run"
