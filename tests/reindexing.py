"""A direct flow with its indexes in this process, and what is written and searched meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.qdrant_edge_alias import EdgeAlias
from models.records import Timestamp
from retriever.records import SearchRequest
from syncline.indexes import Indexes
from syncline.settings import Configuration
from syncline.verification import verify_worker
from tests.pipeline import paragraphs
from tests.servers import Mongo
from tests.sourcing import eventually

SMALL, LARGE = 24, 60
"""Tokens of a chunk, before and after."""


class Deployment:
    """What outlives a process: a database, a data directory, and the settings as they are now."""

    def __init__(self, mongo: Mongo, data_dir: Path) -> None:
        self.mongo = mongo
        self.data_dir = data_dir
        self.settings: dict[str, Any] = {"chunk": SMALL, "model": "hash:64", "grace": 300}

    def config(self) -> Configuration:
        """The settings as a process that starts now reads them."""
        return Configuration.model_validate(
            {
                "mongo": {"database": self.mongo.db.name},
                "local": {"data_dir": self.data_dir},
                "embedder": {"model": self.settings["model"]},
                "chunker": {"max_tokens": self.settings["chunk"]},
                "qdrant": {"grace_seconds": self.settings["grace"]},
                "flow": {"epoch_milliseconds": 10},
            }
        )

    @contextmanager
    def running(self, uri: str, *, hold: bool = False) -> Iterator[Syncing]:
        """A process, as far as its indexes go. `hold`: the alias does not move meanwhile."""
        config = self.config()
        alias = WatchedAlias(self.data_dir / "index", config.qdrant.collection)
        indexes = Indexes(config, uri, alias, reload=self.config)
        if hold:
            indexes._succession.pinned.acquire()
        indexes.start()
        syncing = Syncing(self, indexes)
        alias.before_move = syncing.note_move
        try:
            syncing.wait_for(lambda: indexes.ready()[0])
            yield syncing
        finally:
            indexes.control.request_stop()
            assert indexes.join(20)


class WatchedAlias(EdgeAlias):
    """Tells that it is about to move."""

    before_move: Callable[[], None] = staticmethod(lambda: None)

    def point_to(self, collection: str) -> None:
        """As the alias does."""
        self.before_move()
        super().point_to(collection)


class Syncing:
    """A running one."""

    def __init__(self, deployment: Deployment, indexes: Indexes) -> None:
        self.deployment = deployment
        self.indexes = indexes
        self.states_at_moves: list[str] = []
        """What the flow of the index that served was doing when the alias moved away."""

    def note_move(self) -> None:
        """The alias is about to move."""
        if status := self.indexes.status()["serving"] and self.indexes.status():
            self.states_at_moves.append(status["state"])

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Poll until it holds. The error that ended the flow is raised."""

        def holds() -> Any:
            if self.indexes.control.error is not None:
                raise self.indexes.control.error
            return condition()

        eventually(holds, 30)

    @property
    def chunk_tokens(self) -> int:
        """Of the index that serves."""
        tokens: int = self.indexes.status()["serving"]["chunk_tokens"]
        return tokens

    @property
    def collection(self) -> str:
        """Of the index that serves."""
        name: str = self.indexes.status()["serving"]["collection"]
        return name

    def building(self) -> Mapping[str, Any] | None:
        """What is being built."""
        found: Mapping[str, Any] | None = self.indexes.status()["building"]
        return found

    def is_complete(self) -> bool:
        """Whether what is built holds the whole database."""
        building = self.building()
        return building is not None and building["watermark"] is not None

    def settle(self) -> None:
        """Wait until everything written so far is in the index that serves."""
        noted = self.deployment.mongo.now()
        self.wait_for(lambda: self.as_of() >= (noted.time, noted.inc))

    def as_of(self) -> Timestamp:
        """Up to where an answer of now reflects the database."""
        return read_time(self.indexes.serving.search(SearchRequest(query="keeper")).as_of)

    def found(self, query: str) -> set[str]:
        """The documents that are found by their words."""
        request = SearchRequest(query=query, mode="sparse", limit=100)
        return {hit.document_id for hit in self.indexes.serving.search(request).hits}

    def drift(self) -> Mapping[str, int]:
        """What `verify --deep` finds."""
        with self.indexes.pinned() as worker:
            return verify_worker(worker, deep=True, repair=False).counts


class Searching:
    """Searches without pause, as a context: all that was answered, and what failed."""

    def __init__(self, syncing: Syncing) -> None:
        self._serving = syncing.indexes.serving
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[str, frozenset[tuple[str, str]]]] = []
        """Of each answer, `as_of`, and document and text of its hits."""
        self.error: BaseException | None = None

    def __enter__(self) -> Searching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        request = SearchRequest(query="keeper ships", limit=50, filter={"collection": "fixed"})
        try:
            while not self._over.wait(0.005):
                answer = self._serving.search(request)
                hits = frozenset((hit.document_id, hit.text) for hit in answer.hits)
                self.answers.append((answer.as_of, hits))
        except BaseException as error:
            self.error = error


class Writing:
    """Inserts, edits and deletes without pause, as a context; the same ones are met again."""

    def __init__(self, mongo: Mongo) -> None:
        self._moving = mongo.db["moving"]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written = 0
        self.deleted: set[str] = set()

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        n = 0
        while not self._over.wait(0.002):
            n += 1
            self._moving.insert_one({"_id": f"w{n}", "text": f"walrus {paragraphs(n % 9)}"})
            self._moving.update_one({"_id": f"w{n // 2}"}, {"$set": {"text": f"walrus {n}"}})
            if n % 3 == 0:
                self._moving.delete_one({"_id": f"w{n - 1}"})
                self.deleted.add(f"w{n - 1}")
            self.written = n


def read_time(text: str) -> Timestamp:
    """Inverse of `str` of a cluster time."""
    return Timestamp(*map(int, text.split(".")))
