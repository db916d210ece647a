"""The Bytewax source of the index flow: the changes that arrive in all partitions of the topic.

Delivery: at least once, in the order of each partition. A place in a partition is acknowledged
only when everything emitted before it is written: Bytewax lets a source emit into an epoch only
when all of the epoch before has gone through every sink, so at `snapshot()` all that had been
emitted by the `snapshot()` before is written. After a crash what followed comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import pulsar
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.pulsar_consumers import Arrival, Arriving, PulsarConsumers
from models.records import Advance, Floor, Mark
from models.wire import Heartbeat
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped

EPOCHS_TO_STOP = 2
"""What was emitted before the first `snapshot()` of a stop is written at the second."""


class Limits(NamedTuple):
    """How much is handed over at once, and how often an idle source is asked."""

    batch_messages: int = 500
    """Enough for full embedding batches; more would only delay what comes behind it."""
    batch_bytes: int = 16_000_000
    poll_milliseconds: int = 2


class Place(NamedTuple):
    """How far one partition is written: up to this message, and the mark to put then, if a
    heartbeat or the begin of a generation came."""

    id: pulsar.MessageId
    advance: Advance | None = None


Places = Mapping[int, Place]
"""By partition; those from which nothing came are missing."""


class PulsarSource(FixedPartitionedSource[Arriving, None]):
    """What the messages say, without heartbeats, as one part named `pulsar`.

    `acknowledge` gets the places up to which everything is written, and tells whether it wants to
    be called again soon; never called twice at once. Errors go to `control`, and a stop asked for
    there ends the source after a last acknowledgement.
    """

    def __init__(
        self,
        consumers: PulsarConsumers,
        *,
        acknowledge: Callable[[Places], bool],
        control: Control,
        limits: Limits | None = None,
    ) -> None:
        self._partition = _Partition(consumers, acknowledge, control, limits or Limits())

    def list_parts(self) -> list[str]:
        """One part: the consumers share out the partitions among processes, not workers."""
        return ["pulsar"]

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSourcePartition[Arriving, None]:
        """Start reading. May be called once; blocks for nothing."""
        self._partition.start()
        return self._partition


class _Emitted(NamedTuple):
    """What was emitted at one `snapshot()`: written at the next one."""

    places: Places
    changes: int


class _Partition(StatefulSourcePartition[Arriving, None]):
    def __init__(
        self,
        consumers: PulsarConsumers,
        acknowledge: Callable[[Places], bool],
        control: Control,
        limits: Limits,
    ) -> None:
        self._consumers = consumers
        self._send = acknowledge
        self._control = control
        self._limits = limits
        self._places: dict[int, Place] = {}
        self._changes = 0
        self._emitted: _Emitted | None = None
        self._acknowledged = _Emitted({}, 0)
        self._again = False
        self._epochs_stopping = 0

    def start(self) -> None:
        """Start the reading threads."""
        self._consumers.start()
        self._control.begin()

    # --- emitting -------------------------------------------------------------------------

    def next_batch(self) -> Iterable[Arriving]:
        """What has arrived, without waiting. Raises StopIteration when the flow has to end."""
        if self._is_over():
            raise StopIteration
        if self._control.stop_requested:
            return []
        try:
            return self._take()
        except BaseException as error:
            self._control.fail(error)
            raise StopIteration from error

    def next_awake(self) -> datetime | None:
        """At once while something waits."""
        if len(self._consumers.inbox) and not self._control.stop_requested:
            return None
        return datetime.now(timezone.utc) + timedelta(milliseconds=self._limits.poll_milliseconds)

    def _is_over(self) -> bool:
        control = self._control
        if control.aborted or control.error is not None:
            return True
        return control.stop_requested and self._epochs_stopping >= EPOCHS_TO_STOP

    def _take(self) -> list[Arriving]:
        changes: list[Arriving] = []
        limits = self._limits
        for arrival in self._consumers.inbox.take(limits.batch_messages, limits.batch_bytes):
            content = arrival.content
            self._note(arrival)
            if isinstance(content, Heartbeat):
                continue
            self._changes += not isinstance(content, Floor)
            changes.append(content)
        return changes

    def _note(self, arrival: Arrival) -> None:
        content, before = arrival.content, self._places.get(arrival.partition)
        advance = before.advance if before else None
        if isinstance(content, Heartbeat):
            self._check(content)
            advance = _advanced(advance, arrival.partition, content)
        elif isinstance(content, Floor) and content.generation:
            advance = self._begun(arrival.partition, content.generation)
        self._places[arrival.partition] = Place(arrival.id, advance)

    def _begun(self, partition: int, generation: int) -> Advance:
        of = len(self._consumers.topics)
        mark = Mark(partition=partition, of=of, generation=generation, watermark=None)
        return Advance(mark, begins=True)

    def _check(self, heartbeat: Heartbeat) -> None:
        read = len(self._consumers.topics)
        if heartbeat.partitions != read:
            raise Misconfigured(
                f"capture writes {heartbeat.partitions} partitions, this index flow reads {read}",
                "give both the same pulsar.topic and pulsar.partitions",
                code="topic_unfit",
            )

    # --- acknowledging --------------------------------------------------------------------

    def snapshot(self) -> None:
        """End of an epoch: all that had been emitted by the one before is written."""
        try:
            self._close_epoch()
        except Stopped:
            self._control.abort()
        except BaseException as error:
            self._control.fail(error)

    def _close_epoch(self) -> None:
        control = self._control
        if not control.aborted and control.error is None:
            written, self._emitted = self._emitted, _Emitted(dict(self._places), self._changes)
            if written is not None and self._is_due(written):
                self._acknowledge(written)
        self._epochs_stopping += control.stop_requested

    def _is_due(self, written: _Emitted) -> bool:
        if self._again or self._control.stop_requested:
            return True
        return written.places != self._acknowledged.places

    def _acknowledge(self, written: _Emitted) -> None:
        self._again = self._send(written.places)
        self._control.count_acknowledged(written.changes - self._acknowledged.changes)
        self._acknowledged = written

    def close(self) -> None:
        """End the reading threads."""
        self._consumers.close()
        self._control.ended()


def _advanced(before: Advance | None, partition: int, heartbeat: Heartbeat) -> Advance:
    """What came so far, and this heartbeat: as one, if nothing is missing between them.

    Something is, rightly, where another process read the partition meanwhile.
    """
    mark = Mark(
        partition=partition,
        of=heartbeat.partitions,
        generation=heartbeat.generation,
        beat=heartbeat.beat,
        watermark=heartbeat.watermark,
    )
    if before is None or before.mark.generation != mark.generation:
        return Advance(mark, heartbeat.beat - 1)
    reached = before.mark
    if mark.beat <= reached.beat:
        return before  # it came before already
    if mark.beat > reached.beat + 1:
        return Advance(mark, heartbeat.beat - 1)
    # Capture may have been a little further before it was killed.
    further = max(filter(None, (mark.watermark, reached.watermark)), default=None)
    return before._replace(mark=mark.model_copy(update={"watermark": further}))
