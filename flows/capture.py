"""The capture dataflow: MongoDB -> Pulsar.

Bytewax runs without recovery: the position lives in a topic beside the partitions, and the source
writes it, as it does in the direct flow.
"""

from __future__ import annotations

import time
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from connectors.pulsar_position import PositionTopic
from connectors.pulsar_publisher import Publisher
from connectors.pulsar_sink import PulsarSink
from flows.sync import contained
from models.records import Change, Floor, Position, Version
from models.wire import Heartbeat
from syncline.control import Control
from syncline.retry import keep_trying


def build_flow(source: Source[Change], position: PublishedPosition, control: Control) -> Dataflow:
    """The graph. Nothing is opened before it runs."""
    flow = Dataflow("capture")
    changes = op.input("mongo", flow, source)
    op.output("pulsar", changes, PulsarSink(contained(position.publish, control)))
    return flow


class PublishedPosition:
    """Owns the position of capture: what stands behind it has been confirmed by the broker."""

    def __init__(
        self,
        publisher: Publisher,
        topic: PositionTopic,
        control: Control,
        *,
        snapshot: bool = False,
    ) -> None:
        """`snapshot`: begin with everything, as if the position were of another scope."""
        self._snapshot = snapshot
        self._publisher = publisher
        self._topic = topic
        self._control = control
        self.newest: Position | None = None

    def load(self) -> Position:
        """Where to go on. Raises `Unavailable`."""
        self.newest = self._topic.load()
        if self.newest is not None:
            self._publisher.begin(self.newest)
        if self.newest is None or self._snapshot:
            return _before_a_snapshot(self.newest)
        return self.newest

    def acknowledge(self, position: Position) -> bool:
        """Tell every partition that it has everything up to the watermark, then keep `position`.

        True: to be called again soon, also if nothing happens, so that readers see that we live.
        Raises `Stopped` if a stop is asked for while the broker is away.
        """
        position = self._numbered(position)
        heartbeat = Heartbeat(
            generation=position.generation,
            beat=position.beat,
            watermark=position.watermark,
            partitions=self._publisher.partitions,
        )
        keep_trying(partial(self._publisher.publish, [heartbeat]), self._control)
        if position != self.newest:
            keep_trying(partial(self._topic.put, position), self._control)
            self.newest = position
        return True

    def publish(self, changes: list[Change]) -> None:
        """Publish changes. Raises `Stopped` if a stop is asked for while the broker is away.

        The floor that begins a generation turns away all that is older. Whoever is killed behind
        it, before there is a position of this generation, must not go on from the one before.
        """
        for change in changes:
            if isinstance(change, Floor) and change.generation:
                begun = Position(generation=change.generation, scope="", start=change.version)
                keep_trying(partial(self._topic.put, begun), self._control)
        keep_trying(partial(self._publisher.publish, changes), self._control)

    def _numbered(self, position: Position) -> Position:
        """With the number of its heartbeat: the next one, if it tells anything new."""
        newest = self.newest
        if newest is None or newest.generation != position.generation:
            return position.model_copy(update={"beat": 1})
        same = position.model_copy(update={"beat": newest.beat})
        return same if same == newest else same.model_copy(update={"beat": newest.beat + 1})


def _before_a_snapshot(newest: Position | None) -> Position:
    """A position from which everything is read again, as a newer generation than any before.

    In milliseconds of the wall clock, so that generations rise also where the topic that keeps the
    position is lost.
    """
    generation = int(time.time() * 1000)
    if newest is None:
        return Position(generation=generation, scope="", start=Version(0, 0))
    generation = max(generation, newest.generation)
    return newest.model_copy(update={"generation": generation, "scope": ""})
