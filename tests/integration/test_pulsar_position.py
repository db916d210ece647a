"""The position topic on a real broker."""

from __future__ import annotations

import pytest

from connectors.pulsar_position import PositionTopic
from models.records import Position, Version
from syncline.errors import Misconfigured, Unavailable
from tests.brokers import Broker


def position(n: int, generation: int = 1) -> Position:
    return Position(generation=generation, scope="s", start=Version(1, n))


def test_position_survives(own_broker: Broker, topic: str) -> None:
    """The newest one is there for the next capture, also after the broker was killed."""
    kept = PositionTopic(own_broker.connect, topic)
    assert kept.load() is None
    for n in range(300):
        kept.put(position(n))
    own_broker.kill()
    own_broker.restart()
    kept.close()
    assert PositionTopic(own_broker.connect, topic).load() == position(299)


def test_position_through_an_outage(own_broker: Broker, topic: str) -> None:
    """While the broker is away it says so, and afterwards it goes on."""
    kept = PositionTopic(own_broker.connect, topic)
    kept.put(position(1))
    own_broker.kill()
    with pytest.raises(Unavailable):
        kept.put(position(2))
    own_broker.restart()
    kept.put(position(3))
    assert kept.load() == position(3)


def test_older_positions_are_let_go(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart reads a few, not all that there ever were."""
    monkeypatch.setattr("connectors.pulsar_position.TRIM_POSITIONS", 10)
    kept = PositionTopic(broker.connect, topic)
    for n in range(105):
        kept.put(position(n))
    kept.close()
    with broker.connected() as client:
        consumer = client.subscribe(f"{topic}-position", "syncline-capture")
        oldest = Position.model_validate_json(consumer.receive(5_000).data())
    assert 90 <= oldest.start.increment <= 104


def test_newer_generation_wins(broker: Broker, topic: str) -> None:
    """Of two captures that were active at once, the one that began anew is believed."""
    kept = PositionTopic(broker.connect, topic)
    kept.put(position(5, generation=2))
    kept.put(position(9, generation=1))
    assert kept.load() == position(5, generation=2)
    assert kept.load() == position(5, generation=2)


def test_position_of_another_version(broker: Broker, topic: str) -> None:
    """What cannot be read is not taken for nothing, which would read everything again."""
    kept = PositionTopic(broker.connect, topic)
    kept.load()
    with broker.connected() as client:
        client.create_producer(f"{topic}-position", batching_enabled=True).send(b'{"new": 1}')
    with pytest.raises(Misconfigured, match="cannot be read"):
        kept.load()
