"""Positions and watermarks of the MongoDB source while little or nothing happens."""

from __future__ import annotations

import time

from tests.servers import Mongo


def test_idle_position_advances(mongo: Mongo) -> None:
    """Without any write, position and watermark follow the server's clock, once a second or so."""
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        first, count = reading.position, len(reading.positions)
        began = time.monotonic()
        reading.wait_for(lambda: len(reading.positions) >= count + 3)
        assert time.monotonic() - began > 1.5
    assert first is not None
    assert reading.position is not None
    assert reading.position.token != first.token
    assert reading.position.watermark is not None
    assert first.watermark is not None
    assert reading.position.watermark > first.watermark
    assert reading.written == reading.written[:1]


def test_watermark_passes_a_write_promptly(mongo: Mongo) -> None:
    """A write is behind the watermark well before the next idle acknowledgement is due."""
    with mongo.read() as reading:
        reading.wait_until_settled(mongo.now())
        delays = []
        for n in range(5):
            reply = mongo.db.command("insert", "a", documents=[{"_id": n}])
            began = time.monotonic()
            reading.wait_until_settled(reply["operationTime"])
            delays.append(time.monotonic() - began)
    assert sorted(delays)[2] < 0.7


def test_watermark_is_never_ahead(mongo: Mongo) -> None:
    """Whatever a watermark covers had reached the sink when it was acknowledged."""
    with mongo.read() as reading:
        for n in range(200):
            mongo.db["a"].insert_one({"_id": n})
        reading.wait_until_settled(mongo.now())
    changes = [c for c in reading.of("a") if c.version[:2] > reading.floors[0][1][:2]]
    assert len(changes) > 150
    for position, written in reading.positions:
        known = set(map(id, reading.written[:written]))
        late = [c.version for c in changes if id(c) not in known]
        assert position.watermark is None or all(v[:2] > position.watermark for v in late)
    marks = [p.watermark for p, _ in reading.positions if p.watermark]
    assert marks == sorted(marks)
