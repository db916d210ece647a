"""Progress of long work for people: a bar on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

Unit = Literal["bytes", "documents"]
Advance = Callable[[int], None]
Reporter = Callable[[str, int, Unit], AbstractContextManager[Advance]]
"""`(title, total, unit)` opens a report; what it yields is called with each amount done."""

LINE_SECONDS = 5.0
"""Pause between plain lines: a log stays readable, and one sees that it goes on."""


@contextmanager
def silent(title: str, total: int, unit: Unit) -> Iterator[Advance]:
    """Reports nothing."""
    yield lambda amount: None


@contextmanager
def on_stderr(
    title: str, total: int, unit: Unit, *, console: Console | None = None
) -> Iterator[Advance]:
    """A bar on stderr if it is a terminal; else a line every few seconds and one at the end."""
    shown = console or Console(stderr=True)
    report = _bar if shown.is_terminal else _lines
    with report(shown, title, total, unit) as advance:
        yield advance


@contextmanager
def _bar(console: Console, title: str, total: int, unit: Unit) -> Iterator[Advance]:
    amount: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def _lines(console: Console, title: str, total: int, unit: Unit) -> Iterator[Advance]:
    done, due = 0, time.monotonic() + LINE_SECONDS

    def tell() -> None:
        amounts = (decimal(done), decimal(total)) if unit == "bytes" else (done, f"{total} {unit}")
        console.print(f"{title}: {amounts[0]} of {amounts[1]}", highlight=False, markup=False)

    def advance(amount: int) -> None:
        nonlocal done, due
        done += amount
        if time.monotonic() >= due:
            tell()
            due = time.monotonic() + LINE_SECONDS

    yield advance
    tell()
