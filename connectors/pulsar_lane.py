"""Reads one partition of the topic in a thread, whenever this process can have it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pulsar
import structlog

from connectors.inbox import Inbox
from connectors.pulsar import SERVICE, translated
from models import wire
from models.ids import encode_id
from models.records import UNREAD, Delete, Failed, Failure, Floor, Key, Upsert, Version
from models.wire import Heartbeat, Reference
from syncline.control import Control
from syncline.errors import Rejected, Unavailable

_log = structlog.get_logger(__name__)

RECEIVER_QUEUE = 4
"""Messages may have 5 MB, and the client bounds its queue by their number alone. Small ones travel
in batches, which come whole, so a short queue costs them nothing."""
PLAIN_QUEUE = 32
PLAIN_PAUSE_SECONDS = 0.02
"""The same on plain topics, and the least time that half of it takes, when the client asks for
more. Pulsar Lite answers requests that overlap with the same messages, each of which makes the
client ask again: unpaced, it sent 65 times what there was. This is still 800 messages a second and
partition, more than one process embeds."""
REFERENCE_BYTES = 8_000_000
"""What a reference is reckoned as, because its document is still to come: up to 16 MB."""
RECEIVE_MILLISECONDS = 100
"""How soon the thread notices a stop or a lost connection."""
RETRY_SECONDS = 0.5
"""Beside the client's own tries within each of ours."""
STUCK_SECONDS = 3.0
"""Capture sends a heartbeat every second. After a longer silence a plain topic is looked at: Pulsar
Lite may forget to send what is there until something else is published."""
HEARD_SECONDS = 10.0
"""A partition of a Failover subscription counts as active so long after its last message."""

_Entry = tuple[int, int]
"""Where a message stands in its topic: ledger, entry."""

Arriving = Upsert | Reference | Delete | Floor | Failed
"""What a message says that is to be written. A message that cannot be read is a `Failed`."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message: where it stood, and what it says."""

    partition: int
    id: pulsar.MessageId
    content: Arriving | Heartbeat


class Turns(NamedTuple):
    """When a replica reads the plain topics that another one prefers. All in seconds."""

    stand_by: float = 5.0
    """A topic must be left alone so long: the one who prefers it may only be restarting."""
    hold: float = 60.0
    """So long it is kept at most before its owner gets a chance."""
    leave: float = 3.0
    """So long the chance is. The client of a waiting owner tries about every second."""


class Part(NamedTuple):
    """One partition, and how it is read."""

    number: int
    topic: str
    subscription: str
    exclusive: bool = True
    """On a plain topic; on one of a partitioned topic the broker chooses who reads."""
    guest: bool = False
    """Another replica prefers it, and is let have it."""


class Health:
    """Whether the broker answers all reading threads, as `control` shows it."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._away: set[int] = set()

    def away(self, partition: int, reason: str) -> None:
        """The broker does not answer the thread of this partition."""
        with self._lock:
            self._away.add(partition)
            if self._control.unavailable(SERVICE, reason):
                _log.warning("waiting_for_service", service=SERVICE, reason=reason)

    def back(self, partition: int) -> None:
        """It does."""
        with self._lock:
            self._away.discard(partition)
            if not self._away and self._control.available(SERVICE):
                _log.info("wait_is_over", service=SERVICE)


class Lane:
    """Puts the messages of one partition into `inbox`, from the last acknowledged one on."""

    def __init__(
        self,
        part: Part,
        open_client: Callable[[], contextlib.AbstractContextManager[pulsar.Client]],
        inbox: Inbox[Arrival],
        control: Control,
        *,
        health: Health,
        turns: Turns,
    ) -> None:
        self.part = part
        self.closing = threading.Event()
        self._open_client = open_client
        self._inbox = inbox
        self._control = control
        self._health = health
        self._turns = turns
        self._lock = threading.Lock()
        self._consumer: pulsar.Consumer | None = None
        self._heard_at = -HEARD_SECONDS
        self._looked_at = 0.0
        self._stood: tuple[_Entry, _Entry | None] | None = None
        self._taken = 0
        self._asked_at = 0.0
        self._received: pulsar.MessageId | None = None
        self._acknowledged: pulsar.MessageId | None = None
        name = f"pulsar-{part.number}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def active(self) -> bool:
        """Whether messages of the partition come to this process, as far as it can know."""
        consumer = self._consumer
        if consumer is None or not consumer.is_connected():
            return False
        return self.part.exclusive or time.monotonic() < self._heard_at + HEARD_SECONDS

    def acknowledge(self, id_: pulsar.MessageId) -> None:
        """All up to this message is written. Of no avail while another process has the partition,
        which then does the same."""
        with self._lock, contextlib.suppress(Unavailable), translated():
            self._acknowledged = id_
            if self._consumer is not None:
                self._consumer.acknowledge_cumulative(id_)

    def _run(self) -> None:
        try:
            if self.part.guest:
                self.closing.wait(self._turns.stand_by)
            with self._open_client() as client:
                while not self.closing.is_set():
                    self._turn(client)
        except BaseException as error:
            if not self.closing.is_set():
                self._control.fail(error)

    def _turn(self, client: pulsar.Client) -> None:
        """Subscribe, read as long as it goes well, and leave a pause."""
        pause = self._turns.leave if self.part.guest else RETRY_SECONDS
        try:
            with self._subscribed(client) as consumer:
                self._health.back(self.part.number)
                self._read(consumer)
        except Unavailable as error:
            if self.closing.is_set():
                return
            self._tell(client, error)
            pause = self._turns.stand_by if self.part.guest else RETRY_SECONDS
        self.closing.wait(pause)

    @contextlib.contextmanager
    def _subscribed(self, client: pulsar.Client) -> Iterator[pulsar.Consumer]:
        exclusive, failover = pulsar.ConsumerType.Exclusive, pulsar.ConsumerType.Failover
        with translated():
            consumer = client.subscribe(
                self.part.topic,
                self.part.subscription,
                consumer_type=exclusive if self.part.exclusive else failover,
                consumer_name=f"{socket.gethostname()}-{os.getpid()}",
                initial_position=pulsar.InitialPosition.Earliest,
                receiver_queue_size=PLAIN_QUEUE if self.part.exclusive else RECEIVER_QUEUE,
            )
        with self._lock:
            self._consumer = consumer
        try:
            yield consumer
        finally:
            with self._lock, contextlib.suppress(Unavailable), translated():
                self._consumer = None
                # Sends the acknowledgements that still wait.
                consumer.close()

    def _tell(self, client: pulsar.Client, error: Unavailable) -> None:
        """A topic that another one reads must be told from a broker that is away."""
        try:
            with translated():
                client.get_topic_partitions(self.part.topic)
        except Unavailable:
            self._health.away(self.part.number, error.reason)
        else:
            self._health.back(self.part.number)

    def _read(self, consumer: pulsar.Consumer) -> None:
        began = self._looked_at = time.monotonic()
        while not self.closing.is_set():
            message = _receive(consumer)
            if message is not None:
                self._put(message)
                self._pace()
            elif not consumer.is_connected():
                # The client would connect again by itself, but after up to a minute.
                self._health.away(self.part.number, "NotConnected")
                return
            elif self._is_stuck(consumer):
                return
            if self.part.guest and time.monotonic() > began + self._turns.hold:
                self._finish()
                return

    def _pace(self) -> None:
        """See `PLAIN_QUEUE`."""
        self._taken += 1
        if self.part.exclusive and self._taken % (PLAIN_QUEUE // 2) == 0:
            self.closing.wait(max(0.0, self._asked_at + PLAIN_PAUSE_SECONDS - time.monotonic()))
            self._asked_at = time.monotonic()

    def _is_stuck(self, consumer: pulsar.Consumer) -> bool:
        """Whether the topic holds something that has not come; to subscribe again brings it, unless
        it was acknowledged before."""
        if not self.part.exclusive or time.monotonic() < self._looked_at + STUCK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        with translated():
            newest = _entry(consumer.get_last_message_id())
        received = self._received and _entry(self._received)
        before, self._stood = self._stood, (newest, received)
        return (received is None or received < newest) and before != self._stood

    def _finish(self) -> None:
        """Let what was read be acknowledged, so that it need not be done again elsewhere."""
        patience = time.monotonic() + self._turns.stand_by
        while self._received is not self._acknowledged and time.monotonic() < patience:
            if self.closing.wait(RECEIVE_MILLISECONDS / 1000):
                return

    def _put(self, message: pulsar.Message) -> None:
        raw, id_ = message.data(), message.message_id()
        content = _content(message, raw, self.part.topic)
        if not isinstance(content, Floor | Heartbeat):
            self._control.count_received(1)
        self._heard_at = self._looked_at = time.monotonic()
        self._received = id_
        size = REFERENCE_BYTES if isinstance(content, Reference) else len(raw)
        self._inbox.put(Arrival(self.part.number, id_, content), size)


def _entry(id_: pulsar.MessageId) -> _Entry:
    return id_.ledger_id(), id_.entry_id()


def _receive(consumer: pulsar.Consumer) -> pulsar.Message | None:
    with translated():
        try:
            return consumer.receive(RECEIVE_MILLISECONDS)
        except pulsar.Timeout:
            return None


def _content(message: pulsar.Message, raw: bytes, topic: str) -> Arriving | Heartbeat:
    try:
        return wire.decode(raw)
    except Rejected as error:
        id_ = message.message_id()
        place = f"{id_.ledger_id()}:{id_.entry_id()}:{id_.batch_index()}"
        return Failed(
            key=Key(UNREAD, encode_id(f"{topic.rpartition('/')[2]} {place}")),
            version=Version(message.publish_timestamp() // 1000, 0, 0),
            failure=Failure(step=error.step, reason=error.reason),
        )
