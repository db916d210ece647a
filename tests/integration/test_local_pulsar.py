"""The local broker: starts, refuses what cannot be, keeps its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.errors import Misconfigured
from syncline.local import process
from syncline.local.pulsar import start_pulsar
from tests.brokers import Broker


def test_messages_survive_a_restart(own_broker: Broker, topic: str) -> None:
    """What was confirmed is there after a stop, on the same port."""
    with own_broker.connected() as client:
        client.subscribe(topic, "s")
        client.create_producer(topic, batching_enabled=True).send(b"x")
    own_broker.stop()
    own_broker.restart()
    with own_broker.connected() as client:
        assert client.subscribe(topic, "s").receive(5_000).data() == b"x"


def test_directory_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second broker on the same directory is refused, and does not disturb the first."""
    first = start_pulsar(tmp_path)
    monkeypatch.setattr(process, "LOCK_SECONDS", 0.2)
    with pytest.raises(Misconfigured, match="another local pulsar server"):
        start_pulsar(tmp_path)
    assert not first.process.has_ended()
    first.stop()


def test_port_in_use(broker: Broker, tmp_path: Path) -> None:
    """A taken port is refused by number, and the directory is free again."""
    port = int(broker.url.rpartition(":")[2])
    with pytest.raises(Misconfigured, match=f"port = {port}"):
        start_pulsar(tmp_path, port)
    start_pulsar(tmp_path).stop()


def test_broker_that_does_not_start(tmp_path: Path) -> None:
    """Its last words are in the error."""
    with pytest.raises(Misconfigured, match="unexpected argument '--nonsense'"):
        start_pulsar(tmp_path, flags=["--nonsense"])
