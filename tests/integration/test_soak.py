"""The short form of `make soak` for the direct topology; test_topology.py is that of the other."""

from __future__ import annotations

from pathlib import Path

from tests.soak import Soak


def test_random_kills_of_the_direct_flow(tmp_path: Path) -> None:
    """kill -9 of `syncline up` and its database under a mixed workload: zero drift, 0 embedded by
    the last restart, and searches find what the database holds."""
    figures = Soak("direct", 20261124, tmp_path).run(rounds=3, seconds=20)
    assert figures["writes"] > 0 and figures["words_searched"] > 0, figures
