"""Tests of failures, some of them against the real local parts."""

from tests.servers import mongo, mongo_server, start_server

__all__ = ["mongo", "mongo_server", "start_server"]
