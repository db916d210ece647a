"""A direct flow in this process, over a scripted source: it can be killed before any write.

What the engine promises the source is kept by hand: a position is acknowledged when all of the
step after it is written too, and whoever starts again goes on from the position in the index.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from connectors.memory import MemoryStore
from flows.acknowledge import Acknowledge
from models.records import ALL_COLLECTIONS, Change, Cursor, Floor, Position, Timestamp, Version
from tests.pipeline import Pipeline, gone, paragraphs, put

TOMBSTONE_SECONDS = 3


class Crash(BaseException):
    """The process is gone."""


class Step(NamedTuple):
    """What is emitted at once, and the cursors and the watermark that stand behind it."""

    changes: Sequence[Change]
    cursors: tuple[Cursor, ...] = ()
    watermark: Timestamp | None = None


START, RENAMED = Version(1, 0), Version(6, 2)


def _cursor(collection: str, version: Version, last: int | None = None) -> Cursor:
    last_id = None if last is None else str(last)
    return Cursor(collection=collection, version=version, last_id=last_id)


def _settled(seconds: int) -> dict[str, Any]:
    return {"watermark": Timestamp(seconds, 9)}


LONG = paragraphs(12)
NOTES, READ, OTHER = _cursor("notes", START), _cursor("notes", START, 1), _cursor("other", START)
HISTORY = [
    # A snapshot, which the stream overtakes: 2 is edited and 4 deleted before they are read.
    Step([Floor(collection=ALL_COLLECTIONS, version=START)], (NOTES, OTHER)),
    Step([put(1, (1, 0), text=LONG, tag="a")], (READ, OTHER)),
    Step([put(2, (2, 1), text=paragraphs(8)), gone(4, (2, 2))], (READ, OTHER)),
    Step(
        [put(2, (1, 0), text="stale"), put(3, (1, 0), text="three"), put(4, (1, 0), text="late")],
        (OTHER,),
    ),
    Step([put(1, (1, 0), "other", text=LONG), put(2, (1, 0), "other", text="b")], **_settled(2)),
    # Edits, one with an edit of the metadata; chunks that come and go; two that fail.
    Step([put(1, (3, 1), text=paragraphs(12, p5="A zeppelin."), tag="b")], **_settled(2)),
    Step([put(1, (3, 2), text=paragraphs(5), tag="b"), gone(3, (3, 3))], **_settled(3)),
    Step([put(2, (4, 1), text=7), put(1, (4, 2), text=LONG, tag="c")], **_settled(4)),
    Step([put(5, (4, 3), text=8), put(1, (4, 4), text=LONG, tag="d")], **_settled(4)),
    # Deleted and inserted again; a drop within a batch; a rename, whose new name is read.
    Step([gone(1, (5, 1)), put(3, (5, 2), text="three again")], **_settled(5)),
    Step(
        [
            put(6, (6, 0), "other", text="dropped soon"),
            Floor(collection="other", version=Version(6, 1)),
            put(7, (6, 1, 1), "other", text=LONG),
        ],
        **_settled(6),
    ),
    Step(
        [Floor(collection=name, version=RENAMED) for name in ("notes", "moved")],
        (_cursor("moved", RENAMED),),
        Timestamp(6, 1),
    ),
    Step(
        [put(3, (6, 2), "moved", text="three again"), put(2, (6, 2), "moved", text=7)],
        (_cursor("moved", RENAMED, 3),),
        Timestamp(6, 1),
    ),
    Step([put(3, (7, 1), "moved", text="edited"), put(1, (7, 2), text="anew")], **_settled(7)),
    # Time passes: tombstones and floors expire.
    Step([put(8, (11, 1), text=paragraphs(9), tag="e")], **_settled(11)),
    Step([put(8, (12, 1), text=paragraphs(9), tag="f"), gone(7, (12, 2), "other")], **_settled(12)),
]


def position_after(step: int) -> Position:
    """What the source acknowledges once `HISTORY[step]` is written."""
    _, cursors, watermark = HISTORY[step]
    return Position(scope="s", start=START, token=str(step), cursors=cursors, watermark=watermark)


class Flow:
    """One process: from where the index says, or from `start`, to the end of the history."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.pipeline = Pipeline(store)
        self.done = -1
        """The last step that is written."""
        control = self.pipeline.control
        self._acknowledge = Acknowledge(
            self.pipeline.index, control, tombstone_seconds=TOMBSTONE_SECONDS
        )

    def run(self, *, start: int | None = None, end: int = len(HISTORY)) -> Flow:
        """Stops in order before the step `end`. Raises `Crash` where the store is told to."""
        begun = self._resume() if start is None else start
        for step in range(begun, end):
            self.pipeline.run(*HISTORY[step].changes)
            self.done = step
            if step > begun:
                self._acknowledge(position_after(step - 1))
        self.pipeline.control.request_stop()
        self._acknowledge(position_after(end - 1))
        return self

    def _resume(self) -> int:
        position = self.pipeline.index.resumable_position()
        return 0 if position is None or position.token is None else int(position.token) + 1

    @property
    def embedded(self) -> int:
        """Chunks that this process embedded."""
        return self.pipeline.telemetry.embedded_total


def crash_after(store: MemoryStore, writes: int) -> None:
    """Kill the process when it is about to do one more than so many writes."""
    left = iter(range(writes))

    def before(_operation: str) -> None:
        if next(left, None) is None:
            raise Crash

    store.before_write = before


def run_until_crash(store: MemoryStore, writes: int) -> None:
    """A process that does so many writes, or all that there are."""
    crash_after(store, writes)
    with suppress(Crash):
        Flow(store).run()
    store.before_write = None


def copied(store: MemoryStore) -> MemoryStore:
    """A backup."""
    backup = MemoryStore()
    for name in ("_points", "_indexes", "_dimension"):
        setattr(backup, name, copy.copy(getattr(store, name)))
    return backup


class Killed(NamedTuple):
    """What a process leaves that is killed before one of its writes."""

    store: MemoryStore
    write: str
    done: int
    """The last step that was written, -1 for none."""


def kills() -> list[Killed]:
    """A process killed before each write of the history, and after the last one."""
    store, found = MemoryStore(), list[Killed]()
    flows = list[Flow]()

    def before(operation: str) -> None:
        done = flows[0].done if flows else -1
        found.append(Killed(copied(store), f"{len(found)}, {operation}", done))

    store.before_write = before
    flows.append(Flow(store))
    flows[0].run()
    before("none")
    return found
