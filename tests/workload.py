"""A random mixed workload on a database, which rides out that the database dies under it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from tests.pipeline import paragraphs
from tests.sourcing import eventually

COLLECTIONS = ("notes", "pages", "letters", "fleeting")
IDS = 40
"""In each collection: few enough that documents are often deleted and inserted again."""
PASSING = (26, 11000)
"""Codes of a rename of what is not there, and of an insert that is tried again and was done."""


class Workload(threading.Thread):
    """Inserts, edits of a paragraph or a tag, deletes, drops and renames, in a seeded order.

    Every text has words of its own, `words` remembers all of them: a search for one of them finds
    one document, or none once the text has changed.
    """

    def __init__(self, db: Database[dict[str, Any]], seed: int, *, pause: float = 0.005) -> None:
        super().__init__(daemon=True)
        self.writes = 0
        self.words: list[str] = []
        self._db = db
        self._random = random.Random(seed)
        self._pause = pause
        self._over = threading.Event()
        self._writing = threading.Lock()

    def run(self) -> None:
        actions: list[Callable[[], Any]] = [
            *[self._put] * 30,
            *[self._edit] * 30,
            *[self._retag] * 20,
            *[self._delete] * 15,
            self._rename,
            self._drop,
        ]
        while not self._over.wait(self._pause):
            with self._writing:
                try:
                    self._random.choice(actions)()
                except PyMongoError as error:
                    if isinstance(error, OperationFailure) and error.code not in PASSING:
                        raise
                    continue  # the database is gone for a moment, and it may have done it or not
                self.writes += 1

    def do(self, writes: int) -> None:
        """Wait until so many more are done."""
        before = self.writes
        eventually(lambda: self.writes > before + writes, 30)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """As a context: nothing is being written."""
        with self._writing:
            assert self.is_alive(), "the workload has died"
            yield

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()

    def _put(self) -> None:
        body = {"text": self._text(), "tag": "t0"}
        self._any().replace_one({"_id": self._id()}, body, upsert=True)

    def _edit(self) -> None:
        collection, doc_id = self._any(), self._id()
        found = collection.find_one({"_id": doc_id})
        if found is not None:
            lines = found["text"].split("\n\n")
            lines[self._random.randrange(len(lines))] = f"Then came {self._word()} by night."
            collection.update_one({"_id": doc_id}, {"$set": {"text": "\n\n".join(lines)}})

    def _retag(self) -> None:
        tag = f"t{self._random.randrange(5)}"
        self._any().update_one({"_id": self._id()}, {"$set": {"tag": tag}})

    def _delete(self) -> None:
        self._any().delete_one({"_id": self._id()})

    def _drop(self) -> None:
        self._db["fleeting"].drop()

    def _rename(self) -> None:
        source, target = self._random.sample(COLLECTIONS, 2)
        self._db[source].rename(target, dropTarget=True)

    def _any(self) -> Any:
        return self._db[self._random.choice(COLLECTIONS)]

    def _id(self) -> int:
        return self._random.randrange(IDS)

    def _text(self) -> str:
        return paragraphs(self._random.randrange(1, 40), p0=f"It began with {self._word()}.")

    def _word(self) -> str:
        word = f"w{len(self.words)}q"
        self.words.append(word)
        return word
