"""`syncline serve` answers from the index that the alias names, with the model that made it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import structlog

from connectors.alias import Alias
from connectors.index import Index
from models.records import Recipe
from retriever.search import Retriever
from retriever.serving import Serving
from syncline.assemble import describe
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped
from syncline.making import make_again, plan_making
from syncline.retry import keep_trying
from syncline.running_index import tell_making
from syncline.settings import Configuration

_log = structlog.get_logger("syncline")

ALIAS_SECONDS = 1.0
"""Between two looks at the alias: far below the grace that a replaced index has."""
POLL_SECONDS = 0.05


class AliasFollower:
    """Looks at the alias in a thread of its own; requests never wait for it."""

    def __init__(self, config: Configuration, alias: Alias) -> None:
        self.serving = Serving()
        self._control = Control()
        self._alias = alias
        self._making = plan_making(config)
        self._facts: Mapping[str, Any] | None = None
        self._seen: str | None = None
        self._thread = threading.Thread(target=self._run, name="syncline-alias", daemon=True)

    def start(self) -> None:
        """Begin; what can be wrong shows in `check`."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._control.request_stop()
        self._thread.join(ALIAS_SECONDS)

    def check(self) -> None:
        """Raises what makes it impossible to answer."""
        if self._control.error is not None:
            raise self._control.error

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`. Raises `Unavailable` while there is no index."""
        with self.serving.taken() as retriever:
            return {"state": "serving", **describe(retriever.index), "serving": self._facts}

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether requests are answered, and if not, what is waited for."""
        waiting = dict(self._control.waiting)
        if self._facts is None:
            waiting.setdefault("index", "it has not been built yet")
        return not waiting, waiting

    def _run(self) -> None:
        try:
            while True:
                keep_trying(self.look, self._control)
                if self._control.wait_stop(ALIAS_SECONDS):
                    return
        except Stopped:
            pass
        except BaseException as error:  # handed to the entry point, which raises it
            self._control.fail(error)
        finally:
            self._alias.close()

    def look(self) -> None:
        """Answer from the index that the alias names now, if it is another than before."""
        name = self._alias.target()
        if name is None or name == self._seen:
            return
        index = Index(self._alias.open(name))
        with ExitStack() as stack:
            stack.callback(index.store.close)
            recipe = index.recipe()
            if recipe is None or not self._can_make(name, recipe):
                return
            stack.pop_all()
        self.serving.switch(Retriever(index, self._making.embedder), index.store.close)
        self._facts, self._seen = tell_making(name, recipe), name

    def _can_make(self, name: str, recipe: Recipe) -> bool:
        """Whether the model of an index is to be had. If not, the one before goes on answering, as
        long as it is there."""
        try:
            self._making = make_again(recipe, self._making)
        except Misconfigured as error:
            if self._facts is None:
                raise
            _log.error("index_not_served", collection=name, reason=str(error))
            self._seen = name
            return False
        return True
