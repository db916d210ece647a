"""The position of capture, in a topic of its own: the newest message is it.

A durable exclusive subscription keeps the newest message and lets the older ones go, and who holds
it is the only capture. Where a connection breaks, two captures may write for a moment: that harms
nothing, because each one's position stands behind what it has published.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pulsar
from pydantic import ValidationError

from connectors.pulsar import SERVICE, disconnect, translated
from models.records import Position
from syncline.errors import Misconfigured, Unavailable

SUBSCRIPTION = "syncline-capture"
TRIM_SECONDS = 10.0
TRIM_POSITIONS = 200
"""Older positions are let go so often: at a restart at most these few are read."""
RECEIVE_MILLISECONDS = 5_000
"""Within it a message comes that was confirmed: longer than a broker needs to find its file."""
SEND_MILLISECONDS = 5_000
BUSY = "another capture is active"

_MARK = b"mark:"


class PositionTopic:
    """Keeps one `Position` in the topic `<topic>-position`. Used by one thread at a time.

    `connect` makes a client for this alone. Every call raises `Unavailable`, after which it may be
    called again: also when another capture is active.
    """

    def __init__(self, connect: Callable[[], pulsar.Client], topic: str) -> None:
        self._connect = connect
        self._topic = f"{topic}-position"
        self._held: _Held | None = None
        self._trimmed_at = time.monotonic()
        self._put = 0

    def load(self) -> Position | None:
        """The newest position, of the highest generation; None if there is none.

        Of two captures that were active at once the one with the newer generation knows more.
        Raises `Misconfigured` if it cannot be read.
        """
        with self._closing_on_error():
            held = self._hold()
            # What was confirmed before this mark comes before it.
            mark = _MARK + uuid.uuid4().bytes
            messages = held.read_until(held.send(mark))
            found = [_read(m, self._topic) for m in messages if not m.data().startswith(_MARK)]
        if not found:
            return None
        newest = max(reversed(found), key=lambda position: position.generation)
        # What `put` lets go is all but the last message.
        self.put(newest)
        return newest

    def put(self, position: Position) -> None:
        """Keep `position`; returns when the broker has confirmed it."""
        with self._closing_on_error():
            held = self._hold()
            sent = held.send(position.model_dump_json().encode())
            self._put += 1
            now = time.monotonic()
            if self._put >= TRIM_POSITIONS or now - self._trimmed_at >= TRIM_SECONDS:
                held.forget_before(sent)
                self._put, self._trimmed_at = 0, now

    def close(self) -> None:
        """Let another capture have it."""
        if self._held is not None:
            disconnect(self._held.client)
        self._held = None

    def _hold(self) -> _Held:
        if self._held is None:
            client = self._connect()
            try:
                self._held = _open(client, _plain(client, self._topic))
            except BaseException:
                disconnect(client)
                raise
        return self._held

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        """Translates errors; the next call begins with a new connection."""
        try:
            with translated():
                yield
        except BaseException:
            self.close()
            raise


class _Held(NamedTuple):
    """The topic while we are the only capture."""

    client: Any
    producer: Any
    consumer: Any

    def send(self, content: bytes) -> Any:
        """The id of the message, once it is confirmed."""
        return self.producer.send(content)

    def read_until(self, last: Any) -> list[Any]:
        """The messages that are kept, once each, up to the one with the id `last`."""
        messages: dict[tuple[int, int], Any] = {}
        while _place(last) not in messages:
            message = self.consumer.receive(RECEIVE_MILLISECONDS)
            messages[_place(message.message_id())] = message
        # A broker may deliver some twice, and then not in order.
        return [messages[place] for place in sorted(messages) if place <= _place(last)]

    def forget_before(self, last: Any) -> None:
        """Let go what is older than the message with the id `last`."""
        messages = self.read_until(last)
        if len(messages) > 1:
            self.consumer.acknowledge_cumulative(messages[-2])


def _open(client: Any, topic: str) -> _Held:
    try:
        consumer = client.subscribe(
            topic,
            SUBSCRIPTION,
            consumer_type=pulsar.ConsumerType.Exclusive,
            initial_position=pulsar.InitialPosition.Earliest,
        )
    except pulsar.ConsumerBusy as error:
        raise Unavailable(SERVICE, BUSY) from error
    except pulsar.Timeout as error:
        # Pulsar Lite refuses by hanging up. If the broker is away, this raises.
        client.get_topic_partitions(topic)
        raise Unavailable(SERVICE, f"{BUSY}, or the broker cannot open {topic}") from error
    producer = client.create_producer(
        topic,
        send_timeout_millis=SEND_MILLISECONDS,
        # A batch that its first message fills: single messages, Pulsar Lite mixes up.
        batching_enabled=True,
        batching_max_allowed_size_in_bytes=1,
    )
    return _Held(client, producer, consumer)


def _plain(client: Any, topic: str) -> str:
    """The topic; its first partition where the broker makes every topic a partitioned one."""
    try:
        first: str = min(client.get_topic_partitions(topic))
    except pulsar.TopicNotFound:
        return topic
    return first


def _place(message_id: Any) -> tuple[int, int]:
    return message_id.ledger_id(), message_id.entry_id()


def _read(message: Any, topic: str) -> Position:
    try:
        return Position.model_validate_json(message.data())
    except ValidationError as error:
        raise Misconfigured(
            f"the position of capture in {topic} cannot be read: {error}",
            "use the version of Syncline that wrote it, or delete the topic: everything is read "
            "again then",
            code="topic_unfit",
        ) from error
