"""Reads all partitions of the topic, as far as they are this process's to read.

A partitioned topic is read with a Failover subscription: the broker spreads its partitions over
the consumers of all replicas, and hands them over. Plain topics are subscribed to exclusively and
shared out by the replicas themselves: each subscribes to those that it prefers at once, to the
others when they stay free for a while, and gives those back now and then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pulsar

from connectors.inbox import Inbox
from connectors.pulsar import OPERATION_SECONDS, disconnect
from connectors.pulsar_lane import Arrival, Arriving, Health, Lane, Part, Turns
from syncline.control import Control

__all__ = ["INBOX_BYTES", "Arrival", "Arriving", "PulsarConsumers", "Turns"]

INBOX_BYTES = 16_000_000
"""Three of the largest messages, or some thousands of usual ones. As messages: decoded, small
documents take about eight times as much memory."""
CLOSE_SECONDS = OPERATION_SECONDS + 1.0
"""How long the reading threads are waited for. One may be subscribing, which nothing interrupts,
and a process that ends meanwhile is aborted by the client's own threads."""


class PulsarConsumers:
    """One reading thread a partition; what they read stands in `inbox`.

    Delivery: at least once; each partition in its order from the last acknowledged message on, and
    again from there whenever the partition changes hands. Memory: `INBOX_BYTES`, and a few
    messages a partition in the client. Errors go to `control`, which also shows a broker that is
    away; that is waited for.

    `connect` makes the clients. Each plain topic has one of its own: a broker may close the
    connection on which a subscription was refused, with all else that it carries.
    """

    def __init__(
        self,
        connect: Callable[[], pulsar.Client],
        topics: Sequence[str],
        subscription: str,
        control: Control,
        *,
        replica: int = 0,
        replicas: int = 1,
        turns: Turns | None = None,
    ) -> None:
        self.inbox: Inbox[Arrival] = Inbox(INBOX_BYTES)
        self.topics = tuple(topics)
        self._connect = connect
        self._shared: pulsar.Client | None = None
        self._opening = threading.Lock()
        plain = not any("-partition-" in name for name in topics)
        health = Health(control)
        self._lanes = [
            Lane(
                Part(k, topic, subscription, plain, plain and k % replicas != replica % replicas),
                self._own_client if plain else self._shared_client,
                self.inbox,
                control,
                health=health,
                turns=turns or Turns(),
            )
            for k, topic in enumerate(topics)
        ]

    def start(self) -> None:
        """Start the reading threads. May be called once."""
        for lane in self._lanes:
            lane.thread.start()

    def acknowledge(self, places: Mapping[int, pulsar.MessageId]) -> None:
        """By partition: all up to this message is written, and need not come again.

        Cumulative, and sent soon rather than now. If it is lost, some messages come again.
        """
        for partition, id_ in places.items():
            self._lanes[partition].acknowledge(id_)

    @property
    def active(self) -> list[int]:
        """The partitions whose messages come to this process, as far as it can know."""
        return [lane.part.number for lane in self._lanes if lane.active]

    def close(self) -> None:
        """End the reading threads and leave the partitions to others. Again: nothing."""
        self.inbox.close()
        for lane in self._lanes:
            lane.closing.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        for lane in self._lanes:
            if lane.thread.ident is not None:
                lane.thread.join(max(0.0, deadline - time.monotonic()))
        with self._opening:
            if self._shared is not None:
                disconnect(self._shared)
            self._shared = None

    @contextlib.contextmanager
    def _own_client(self) -> Iterator[pulsar.Client]:
        client = self._connect()
        try:
            yield client
        finally:
            disconnect(client)

    @contextlib.contextmanager
    def _shared_client(self) -> Iterator[pulsar.Client]:
        with self._opening:
            self._shared = self._shared or self._connect()
        yield self._shared
