"""A real server of MongoDB's protocol: fixtures, which a folder's conftest imports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from pymongo.database import Database

from connectors.mongo import Client, MongoScope, connect, database
from syncline.local.mongo import LocalMongo, start_mongo
from tests.sourcing import Reading


class Mongo(NamedTuple):
    """A server, and a database of one's own."""

    client: Client
    db: Database[dict[str, Any]]

    @property
    def scope(self) -> MongoScope:
        """The whole database."""
        return MongoScope(database=self.db.name)

    def now(self) -> Any:
        """The cluster time of a write that is done now."""
        reply = self.client["other"].command("insert", "clock", documents=[{}])
        return reply["operationTime"]

    @contextmanager
    def failing(self, commands: Sequence[str], *, times: int = 1, **how: Any) -> Iterator[None]:
        """As a context: the next such commands fail, in a way the server's fail points know."""
        where = {"failCommands": list(commands), **how}
        switch = self.client.admin.command
        switch("configureFailPoint", "failCommand", mode={"times": times}, data=where)
        try:
            yield
        finally:
            switch("configureFailPoint", "failCommand", mode="off")

    def read(self, *args: Any, **options: Any) -> Reading:
        """A source of the whole database, to be used as a context."""
        return Reading(self.client, options.pop("scope", self.scope), *args, **options)


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMongo]:
    server = start_mongo(tmp_path_factory.mktemp("mongo"), flags=["--enable-test-commands"])
    yield server
    server.stop()


@pytest.fixture
def mongo(mongo_server: LocalMongo, request: pytest.FixtureRequest) -> Iterator[Mongo]:
    """The session's server with a fresh database, dropped afterwards."""
    name = f"t{abs(hash(request.node.nodeid))}"
    with connect(mongo_server.uri, app_name="tests") as client:
        yield Mongo(client, database(client, name))
        client.drop_database(name)


@pytest.fixture
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., LocalMongo]]:
    """Starts servers of one's own, with flags; they are stopped afterwards."""
    with ExitStack() as stack:

        def start(*flags: str, **where: Any) -> LocalMongo:
            data_dir = where.pop("data_dir", None) or tmp_path_factory.mktemp("own")
            server = start_mongo(data_dir, flags=flags, **where)
            stack.callback(server.stop)
            return server

        yield start
