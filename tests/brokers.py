"""A real broker of Pulsar's protocol: fixtures, which a folder's conftest imports."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pulsar
import pytest

from connectors.pulsar import connect, disconnect
from models.wire import Message, decode
from syncline.errors import Misconfigured
from syncline.local.pulsar import LocalPulsar, start_pulsar

PARTITIONS = 3
WAIT_SECONDS = 20.0
FORGOTTEN_SECONDS = 3.0
"""Pulsar Lite may forget to send what is there until something else is published."""


class Broker:
    """Pulsar Lite in a process of its own, which can be killed and started again."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._local: LocalPulsar = start_pulsar(data_dir)
        self.url = self._local.url

    def connect(self) -> pulsar.Client:
        """A client of one's own."""
        return connect(self.url)

    @contextmanager
    def connected(self) -> Iterator[pulsar.Client]:
        """A client as long as the block runs."""
        client = self.connect()
        try:
            yield client
        finally:
            disconnect(client)

    def kill(self) -> None:
        """As a power cut of the process: SIGKILL, and it is gone."""
        os.killpg(self._local.process.pid, signal.SIGKILL)
        self._local.stop()

    def stall(self) -> None:
        """Leave its connections half-open: it accepts, and answers nothing, until `resume`."""
        os.killpg(self._local.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on where it stood still."""
        os.killpg(self._local.process.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start it again, on the same port and data."""
        port = int(self.url.rpartition(":")[2])
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self._local = start_pulsar(self._data_dir, port)
                return
            except Misconfigured:
                # The killed one may still be about to close its socket.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        if not self._local.process.has_ended():
            self.resume()  # a process that stands still cannot be asked to end
        self._local.stop()


class Tail:
    """Everything that stands in `topics`, in the order in which it is stored, once each."""

    def __init__(self, broker: Broker, topics: tuple[str, ...]) -> None:
        self._client = broker.connect()
        self._topics = topics
        self._kept: list[dict[tuple[int, ...], Any]] = [{} for _ in topics]
        self._subscribe()

    def _subscribe(self) -> None:
        earliest = pulsar.InitialPosition.Earliest
        self._consumers = [
            self._client.subscribe(topic, "tail", initial_position=earliest)
            for topic in self._topics
        ]

    def _ask_again(self) -> None:
        """Have everything sent once more: nothing was acknowledged."""
        for consumer in self._consumers:
            consumer.close()
        self._subscribe()

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        disconnect(self._client)

    def poll(self) -> bool:
        """Take what has arrived; whether that was anything new."""
        before = sum(map(len, self._kept))
        for consumer, kept in zip(self._consumers, self._kept, strict=True):
            while (message := _receive(consumer)) is not None:
                found = message.message_id()
                kept[found.ledger_id(), found.entry_id(), found.batch_index()] = message
        return sum(map(len, self._kept)) > before

    def raw(self) -> list[list[Any]]:
        """The client's messages, by partition."""
        return [[kept[place] for place in sorted(kept)] for kept in self._kept]

    def messages(self) -> list[list[Message]]:
        """The messages, by partition."""
        return [[decode(message.data()) for message in messages] for messages in self.raw()]

    def wait_for(
        self, condition: Callable[[list[list[Message]]], object], seconds: float = WAIT_SECONDS
    ) -> list[list[Message]]:
        """Poll until it holds; what there is then."""
        heard = time.monotonic()
        deadline = heard + seconds
        while True:
            if self.poll():
                heard = time.monotonic()
            messages = self.messages()
            if condition(messages):
                return messages
            assert time.monotonic() < deadline, f"not within {seconds} s"
            if time.monotonic() > heard + FORGOTTEN_SECONDS:
                self._ask_again()
                heard = time.monotonic()


class Refusing:
    """A broker that answers every connection with `answer`."""

    # PulsarApi.proto: BaseCommand{type = ERROR, error = {request_id, AuthenticationError, "no"}}
    DENIAL = bytes.fromhex("00000010 0000000c 080e 7208 0800 1003 1a02 6e6f")

    def __init__(self, answer: bytes = DENIAL) -> None:
        self.connections = 0
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.url = f"pulsar://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Refusing:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    self.connections += bool(connection.recv(4096))
                    connection.sendall(self._answer)


def _receive(consumer: Any) -> Any:
    try:
        return consumer.receive(20)
    except pulsar.Timeout:
        return None


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that is never killed: each test has topics of its own."""
    running = Broker(tmp_path_factory.mktemp("pulsar"))
    yield running
    running.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may kill."""
    running = Broker(tmp_path / "pulsar")
    yield running
    running.stop()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """The name of a topic of one's own."""
    return f"persistent://public/default/t{abs(hash(request.node.nodeid))}"


@pytest.fixture
def topics(topic: str) -> tuple[str, ...]:
    """Its partitions."""
    return tuple(f"{topic}-{k}" for k in range(PARTITIONS))
