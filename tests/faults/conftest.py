"""Tests of failures, some of them against the real local parts."""

from tests.brokers import broker, own_broker, topic, topics
from tests.servers import mongo, mongo_server, start_server

__all__ = ["broker", "mongo", "mongo_server", "own_broker", "start_server", "topic", "topics"]
