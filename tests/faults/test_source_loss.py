"""Servers that go away, come back, or have forgotten: what the source makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.mongo import MongoScope, check, connect, database
from models.records import ALL_COLLECTIONS, Position, Timestamp, Version
from syncline.errors import Misconfigured, PositionLost, Unavailable
from syncline.local.mongo import LocalMongo
from tests.integration.conftest import Mongo
from tests.sourcing import fold

Start = Callable[..., LocalMongo]
