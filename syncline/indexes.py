"""The direct flow with its indexes: the one that serves, and while the settings ask for another
recipe, the one that is built beside it.

Each index has a flow and a position of its own, from the same database. When the new one has
caught up, the alias moves to it in one step, and the old one, synced no longer, is removed after
`qdrant.grace_seconds`: docs/decisions/0011-reindex.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from connectors.alias import Alias, check_is_alias
from retriever.serving import Serving
from syncline.assemble import NOTHING_HELD
from syncline.control import Control
from syncline.errors import Stopped, Unavailable
from syncline.making import Making, plan_making
from syncline.retry import keep_trying
from syncline.running_index import RunningIndex, tell_building, tell_making
from syncline.settings import Configuration
from syncline.succession import Succession
from syncline.telemetry import Telemetry
from syncline.worker import Worker

POLL_SECONDS = 0.1
"""Between two looks at the flows: a switch is late by no more."""


class Indexes:
    """Runs the flows in threads of their own. Errors that end it are in `control.error`.

    `reload` reads the settings again; what it returns counts for `reindex` alone. Raises
    `Misconfigured`.
    """

    def __init__(
        self,
        config: Configuration,
        uri: str,
        alias: Alias,
        *,
        reload: Callable[[], Configuration] | None = None,
    ) -> None:
        self.control = Control()
        self.telemetry = Telemetry()
        wanted = plan_making(config)
        self._succession = Succession(alias, uri, wanted, self.control, self.telemetry)
        self._reload = reload or (lambda: config)
        self._thread = threading.Thread(target=self._run, name="syncline-indexes", daemon=True)

    @property
    def serving(self) -> Serving:
        """Answers from the index that serves."""
        return self._succession.serving

    # --- as a running flow ----------------------------------------------------------------

    def start(self) -> None:
        """Start; what can be wrong shows in `control`."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for all to end; False if it has not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether changes flow into the index that serves, and if not, what is waited for."""
        active, waiting = self._succession.active, dict(self.control.waiting)
        if self.control.error is not None:
            waiting["flow"] = str(self.control.error)
        elif active is None:
            waiting.setdefault("flow", "starting")
        else:
            waiting |= active.worker.ready()[1]
        return not waiting, waiting

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`."""
        with self._succession.closing:
            active = self._succession.active
            held = active.worker.status() if active else self._nothing()
            return {
                **held,
                "waiting_for": {**self.control.waiting, **held["waiting_for"]},
                "serving": tell_making(active.name, active.making.recipe) if active else None,
                "building": self._tell_building(active),
                "retired": self._succession.retired.names,
            }

    @contextmanager
    def pinned(self) -> Iterator[Worker]:
        """The flow of the index that serves, which no other replaces during the context."""
        with self._succession.pinned:
            yield self._active().worker

    def is_settled(self) -> tuple[bool, Mapping[str, str]]:
        """As `ready`, and no other index is being built, which a comparison would delay."""
        ready, waiting = self.ready()
        return ready and self._succession.building is None, waiting

    def reindex(self, *, abandon: bool = False) -> Mapping[str, Any]:
        """Build what the settings ask for now, or give up what is being built; the status then.

        Raises `Misconfigured` if it cannot be built, and `Unavailable` before the start is over.
        """
        succession = self._succession
        planned = None if abandon else self._plan()
        # Not while the alias moves: what was the new one then is the one that serves.
        with succession.deciding:
            now = self._active().making
            wanted = planned or now
            if not wanted.makes(now.recipe):
                check_is_alias(succession.alias)
            succession.failure, succession.wanted = None, wanted
        return self.status()

    # --- details --------------------------------------------------------------------------

    def _active(self) -> RunningIndex:
        if (active := self._succession.active) is None:
            raise Unavailable("index", "it is not open yet")
        return active

    def _plan(self) -> Making:
        """Of the settings of now only those that say how an index is made: the rest, such as
        addresses, takes a restart."""
        new, now, wanted = self._reload(), self._active().making, self._succession.wanted
        parts = {"embedder": new.embedder, "chunker": new.chunker, "mapping": new.mapping}
        like = wanted if wanted.config.embedder == new.embedder else now
        return plan_making(now.config.model_copy(update=parts), like)

    def _run(self) -> None:
        try:
            self._succession.open()
            while not self.control.wait_stop(POLL_SECONDS):
                keep_trying(self._succession.look, self.control)
        except Stopped:
            pass
        except BaseException as error:  # handed to the entry point, which raises it
            self.control.fail(error)
        finally:
            self._succession.close()
            self.control.ended()

    def _nothing(self) -> Mapping[str, Any]:
        return {
            "state": self.control.state,
            **NOTHING_HELD,
            "embedded_total": self.telemetry.embedded_total,
            "skipped_total": self.telemetry.skipped_total,
            "pending": 0,
            "lag_seconds": None,
            "waiting_for": {},
            "backfill": {},
        }

    def _is_building(self) -> bool:
        active = self._succession.active
        return active is not None and not self._succession.wanted.makes(active.making.recipe)

    def _tell_building(self, active: RunningIndex | None) -> Mapping[str, Any] | None:
        succession = self._succession
        wanted = succession.wanted
        if active is None or not self._is_building():
            return None
        name = succession.name_of(wanted)
        return tell_building(name, wanted, succession.building, succession.failure)
