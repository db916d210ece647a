"""The MongoDB source in a real Bytewax flow, with a list as its sink and its index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

import bytewax.operators as op
from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from connectors.mongo import Client, MongoScope
from connectors.mongo_source import MongoSource
from models.ids import decode_id
from models.records import ALL_COLLECTIONS, Change, Delete, Floor, Key, Position, Upsert, Version
from syncline.control import Control

EPOCH = timedelta(milliseconds=20)


class Reading(StatelessSinkPartition[Change], DynamicSink[Change]):
    """A running source: what it emitted, and the positions it acknowledged.

    `written` are the changes that have reached the sink; each position is kept with how many of
    them there were when it was acknowledged. `slow` is slept for each change. `unfinished` is what
    the owner of the position answers.
    """

    def __init__(
        self,
        client: Client,
        scope: MongoScope,
        position: Position | None = None,
        *,
        slow: float = 0.0,
        **options: Any,
    ) -> None:
        self.control = Control()
        self.written: list[Change] = []
        self.positions: list[tuple[Position, int]] = []
        self.unfinished = False
        self.acknowledged_at_stop = False
        self._slow = slow
        self.source = MongoSource(
            client,
            scope,
            load_position=lambda: position,
            acknowledge=self._acknowledge,
            scope_fingerprint=options.pop("scope_fingerprint", "scope"),
            control=self.control,
            **options,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        flow = Dataflow("reading")
        op.output("list", op.input("mongo", flow, self.source), self)
        cluster_main(flow, [], 0, epoch_interval=EPOCH)  # type: ignore[no-untyped-call]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Reading:
        return self

    def write_batch(self, items: list[Change]) -> None:
        for item in items:
            if self._slow:
                self.control.wait_stop(self._slow)
            self.written.append(item)

    def _acknowledge(self, position: Position) -> bool:
        self.positions.append((position, len(self.written)))
        self.acknowledged_at_stop |= self.control.stop_requested
        return self.unfinished

    def __enter__(self) -> Reading:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self, seconds: float = 5.0) -> Position | None:
        """Stop it in order; the last position it acknowledged."""
        self.control.request_stop()
        self.join(seconds)
        return self.position

    def join(self, seconds: float = 20.0) -> None:
        """Wait until the flow has ended."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the flow did not end within {seconds} s"

    @property
    def position(self) -> Position | None:
        """The last position that was acknowledged."""
        return self.positions[-1][0] if self.positions else None

    def wait_for(self, condition: Callable[[], Any], seconds: float = 20.0) -> None:
        """Poll until it holds. The error that ended the flow is raised."""

        def holds() -> Any:
            if self.control.error is not None:
                raise self.control.error
            return condition()

        eventually(holds, seconds)

    def wait_until_settled(self, at: Any) -> None:
        """Wait until the watermark has passed a cluster time."""
        self.wait_for(
            lambda: (
                self.position
                and self.position.watermark
                and self.position.watermark >= (at.time, at.inc)
            )
        )

    def of(self, collection: str) -> list[Upsert | Delete]:
        """The changes of a collection's documents, in order."""
        changes = [c for c in self.written if not isinstance(c, Floor)]
        return [change for change in changes if change.key.collection == collection]

    @property
    def floors(self) -> list[tuple[str, Version]]:
        """The floors, in order."""
        return [(c.collection, c.version) for c in self.written if isinstance(c, Floor)]


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


State = Mapping[Key, Mapping[str, Any]]


def fold(changes: Iterable[Change]) -> State:
    """What an index that obeys versions and floors holds after `changes`."""
    entries: dict[Key, Upsert | Delete] = {}
    floors: dict[str, Version] = {}
    lowest = Version(0, 0)
    for change in changes:
        if isinstance(change, Floor):
            floors[change.collection] = max(change.version, floors.get(change.collection, lowest))
        else:
            floor = _floor(floors, change.key)
            known = entries.get(change.key)
            if change.version >= max(floor, known.version if known else lowest):
                entries[change.key] = change
    return {
        key: entry.fields
        for key, entry in entries.items()
        if isinstance(entry, Upsert) and entry.version >= _floor(floors, key)
    }


def _floor(floors: Mapping[str, Version], key: Key) -> Version:
    lowest = Version(0, 0)
    return max(floors.get(ALL_COLLECTIONS, lowest), floors.get(key.collection, lowest))


def ids(changes: Iterable[Change]) -> list[Any]:
    """The `_id`s of changes."""
    return [decode_id(change.key.id) for change in changes if not isinstance(change, Floor)]
