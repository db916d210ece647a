"""Publishes changes to the partitions, in order, each confirmed by the broker.

Delivery: at least once. After an error the same batch is published again: what the broker stored
comes twice, what is older than what already stands there is stale, and readers take neither for
new (a version decides).

A broker with deduplication stores nothing twice that the change stream brought: such a message's
sequence id is its version. The broker compares only the first sequence id of a client's batch
(the C++ client names no highest one), so it would take a batch that begins with something old for
old as a whole; these messages therefore travel in batches of one, and everything that has no
place in the order of the stream through a second producer, in full batches, which numbers them
anew.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import pulsar

from connectors.pulsar import SERVICE, disconnect, translate, translated
from models.ids import key_text, partition_of
from models.records import ALL_COLLECTIONS, Delete, Floor, Key, Position, Upsert, Version
from models.wire import OPERATIONS, Message, Reference, as_reference, encode, sequence_id
from syncline.errors import Rejected, Unavailable
from syncline.telemetry import Telemetry

__all__ = ["Publisher"]

Lane = Literal["stream", "extra"]

SEND_SECONDS = 5.0
"""How long the client itself tries to get a message confirmed, also over a new connection."""
PATIENCE_SECONDS = 5.0
"""Beyond that: its callbacks have always come by then."""
DELAY_MILLISECONDS = 1
"""A batch is closed when its messages are there: whoever waits for them, waits for this too."""
BATCH_BYTES = 256_000
ONE_MESSAGE_BYTES = 1
"""Of a batch: its first message fills it."""
NAME = "syncline"
"""Of the producers: one capture at a time writes a topic."""

_COMPRESSION = {
    "none": pulsar.CompressionType.NONE,
    "lz4": pulsar.CompressionType.LZ4,
    "zstd": pulsar.CompressionType.ZSTD,
}


class Publisher:
    """Writes to the `topics`, one a partition. Used by one thread at a time.

    `scope` names what is read: another one may give other documents the same versions, so it is
    part of the producers' names, as the begin of the generation is.
    """

    def __init__(
        self,
        connect: Callable[[], pulsar.Client],
        topics: Sequence[str],
        *,
        scope: str,
        telemetry: Telemetry,
        compression: Literal["none", "lz4", "zstd"] = "zstd",
        max_message_bytes: int = 4_500_000,
    ) -> None:
        self.partitions = len(topics)
        self._connect = connect
        self._topics = tuple(topics)
        self._scope = scope[:8]
        self._telemetry = telemetry
        self._compression = _COMPRESSION[compression]
        self._max_message_bytes = max_message_bytes
        self._start = Version(0, 0)
        self._client: pulsar.Client | None = None
        self._producers: dict[tuple[int, Lane], Any] = {}
        self._doubtful = False

    def begin(self, position: Position) -> None:
        """The changes to come go on from `position`. A new generation tells by its floor."""
        self._start = position.start

    def publish(self, messages: Sequence[Message]) -> None:
        """Send them in order; returns when the broker has confirmed all.

        Floors and heartbeats go to every partition, at their place. At most the batch is held in
        memory. Raises `Unavailable` (to be called again with the same) or `Misconfigured`.
        """
        begun = time.perf_counter()
        batch = _Batch(self.partitions)
        try:
            with translated():
                sent = sum(self._send(message, batch) for message in messages)
                batch.wait()
        except BaseException:
            # What a producer holds of which a send failed is not known.
            self._doubtful |= batch.failed == pulsar.Result.ChecksumError
            self.close()
            raise
        self._doubtful = False
        counts = Counter(type(message).__name__.lower() for message in messages)
        self._telemetry.published(counts, sent, time.perf_counter() - begun)

    def close(self) -> None:
        """Leave the broker. What is not confirmed is given up."""
        self._producers.clear()
        if self._client is not None:
            disconnect(self._client)
        self._client = None

    # --- sending --------------------------------------------------------------------------

    def _send(self, message: Message, batch: _Batch) -> int:
        """The bytes sent."""
        if isinstance(message, Floor) and message.collection == ALL_COLLECTIONS:
            self._begin_generation(message.version, batch)
        message, raw = self._encode(message)
        key = _key(message)
        number = self._sequence_id(message)
        lane: Lane = "extra" if number is None else "stream"
        partitions = range(self.partitions) if key is None else [partition_of(key, self.partitions)]
        for partition in partitions:
            self._producer(partition, lane, batch).send_async(
                raw,
                batch.expect(partition, lane),
                sequence_id=number,
                partition_key=None if key is None else key_text(key),
                properties={"op": OPERATIONS[type(message)]},
            )
        return len(raw) * len(partitions)

    def _encode(self, message: Message) -> tuple[Message, bytes]:
        """The message as it travels: a document that is too large, or no BSON, stays behind."""
        if isinstance(message, Upsert):
            with suppress(Rejected):
                raw = encode(message)
                if len(raw) <= self._max_message_bytes:
                    return message, raw
            message = as_reference(message)
        return message, encode(message)

    def _sequence_id(self, message: Message) -> int | None:
        """Of an event of the stream; None for what the other producer sends.

        Whether a change travels as a reference depends on a setting, so it may come again in
        another form. And of single messages that failed deduplication cannot know.
        """
        if isinstance(message, Upsert | Delete) and not self._doubtful:
            found = isinstance(message, Upsert) and message.snapshot
            return None if found else sequence_id(message.version)
        return None

    def _producer(self, partition: int, lane: Lane, batch: _Batch) -> Any:
        # The order in a partition is that of sending only if one producer at a time sends.
        if batch.lanes.get(partition, lane) != lane:
            batch.wait(partition)
        if (partition, lane) not in self._producers:
            self._producers[partition, lane] = self._open(partition, lane)
        return self._producers[partition, lane]

    def _open(self, partition: int, lane: Lane) -> Any:
        if self._client is None:
            self._client = self._connect()
        start = f"{self._start.seconds}.{self._start.increment}"
        stream = lane == "stream"
        return self._client.create_producer(
            self._topics[partition],
            producer_name=f"{NAME}:stream:{start}:{self._scope}" if stream else f"{NAME}:extra",
            send_timeout_millis=int(SEND_SECONDS * 1000),
            compression_type=self._compression,
            block_if_queue_full=True,
            # Also for single messages: what is not batched, Pulsar Lite mixes up.
            batching_enabled=True,
            batching_max_allowed_size_in_bytes=ONE_MESSAGE_BYTES if stream else BATCH_BYTES,
            batching_max_publish_delay_ms=DELAY_MILLISECONDS,
        )

    def _begin_generation(self, start: Version, batch: _Batch) -> None:
        """Its versions are counted anew, so its producers have names of their own."""
        if start == self._start:
            return
        batch.wait()
        self._start = start
        for place in [place for place in self._producers if place[1] == "stream"]:
            self._producers.pop(place).close()


class _Batch:
    """Sends that the broker has not confirmed yet, by partition."""

    def __init__(self, partitions: int) -> None:
        self.lanes: dict[int, Lane] = {}
        """The one that sent last to a partition."""
        self.failed: pulsar.Result | None = None
        """The first error."""
        self._open = [0] * partitions
        self._changed = threading.Condition()

    def expect(self, partition: int, lane: Lane) -> Callable[[Any, Any], None]:
        """One more send; the callback for it. An exception in it would end the process."""
        self.lanes[partition] = lane
        with self._changed:
            self._open[partition] += 1

        def confirmed(result: pulsar.Result, _id: Any) -> None:
            with self._changed:
                self._open[partition] -= 1
                if result != pulsar.Result.Ok and self.failed is None:
                    self.failed = result
                if self.failed is not None or not self._open[partition]:
                    self._changed.notify()

        return confirmed

    def wait(self, partition: int | None = None) -> None:
        """Until all is confirmed, or all of a partition. Raises the first error."""
        waited_for = slice(None) if partition is None else slice(partition, partition + 1)
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.failed is not None or not any(self._open[waited_for]),
                SEND_SECONDS + PATIENCE_SECONDS,
            )
        if self.failed is not None:
            raise translate(self.failed)
        if not done:
            raise Unavailable(SERVICE, "it does not confirm")


def _key(message: Message) -> Key | None:
    return message.key if isinstance(message, Upsert | Reference | Delete) else None
