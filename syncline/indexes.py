"""The direct flow with its indexes: the one that serves, and while the settings ask for another
recipe, the one that is built beside it.

Each index has a flow and a position of its own, from the same database. When the new one has
caught up, the alias moves to it in one step, and the old one, synced no longer, is removed after
`qdrant.grace_seconds`. What serves is what the alias says, and what an index is made of is stored
in it, so a crash at any moment resumes; see docs/decisions/0011-reindex.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import structlog

from connectors.alias import Alias, check_is_alias
from connectors.index import Index
from models.ids import index_name
from retriever.search import Retriever
from retriever.serving import Serving
from syncline.assemble import NOTHING_HELD
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped, Unavailable
from syncline.making import Making, make_again, plan_making
from syncline.retired import RetiredIndexes
from syncline.retry import keep_trying
from syncline.running_index import RunningIndex, tell_building, tell_making
from syncline.settings import Configuration
from syncline.telemetry import Telemetry

_log = structlog.get_logger("syncline")

POLL_SECONDS = 0.1
"""Between two looks at the flows: a switch is late by no more."""
ALIAS_SECONDS = 1.0
"""Between two looks at the alias and at what has been retired, which may ask a server."""
CATCH_UP_SECONDS = 10.0
"""How long no flow may write to the index that serves, while the new one covers its last steps."""


class Indexes:
    """Runs the flows in threads of their own. Errors that end it are in `control.error`.

    `reload` reads the settings again; what it returns counts for `reindex` alone.
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
        self.serving = Serving()
        self._alias = alias
        self._uri = uri
        self._reload = reload or (lambda: config)
        self._wanted = plan_making(config)
        self._failure: BaseException | None = None
        self._active: RunningIndex | None = None
        self._building: RunningIndex | None = None
        self._retired = RetiredIndexes(alias, config.qdrant.grace_seconds)
        self._looked_at = 0.0
        self._closing = threading.Lock()
        """Held while a store is read for the status, and while one is closed."""
        self._pinned = threading.Lock()
        """Held while the index that serves must stay the same."""
        self._thread = threading.Thread(target=self._run, name="syncline-indexes", daemon=True)

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
        active, waiting = self._active, dict(self.control.waiting)
        if self.control.error is not None:
            waiting["flow"] = str(self.control.error)
        elif active is None:
            waiting.setdefault("flow", "starting")
        else:
            waiting |= active.worker.ready()[1]
        return not waiting, waiting

    def status(self) -> Mapping[str, Any]:
        """The body of `/v1/status`."""
        with self._closing:
            active = self._active
            held = active.worker.status() if active else self._nothing()
            return {
                **held,
                "waiting_for": {**self.control.waiting, **held["waiting_for"]},
                "serving": tell_making(active.name, active.making.recipe) if active else None,
                "building": self._tell_building(active),
                "retired": self._retired.names,
            }

    @contextmanager
    def pinned(self) -> Iterator[RunningIndex]:
        """The index that serves, which no other replaces during the context."""
        with self._pinned:
            if self._active is None:
                raise Unavailable("index", "it is not open yet")
            yield self._active

    # --- what is asked of it --------------------------------------------------------------

    def reindex(self, *, abandon: bool = False) -> Mapping[str, Any]:
        """Build what the settings ask for now, or give up what is being built; the status then.

        Raises `Misconfigured` if it cannot be built, and `Unavailable` before the start is over.
        """
        active = self._active
        if active is None:
            raise Unavailable("index", "it is not open yet")
        wanted = active.making if abandon else self._plan(active.making)
        if not wanted.makes(active.making.recipe):
            check_is_alias(self._alias)
        self._failure, self._wanted = None, wanted
        return self.status()

    def _plan(self, now: Making) -> Making:
        """Of the settings of now only those that say how an index is made: the rest, such as
        addresses, takes a restart."""
        new, old = self._reload(), now.config
        parts = {"embedder": new.embedder, "chunker": new.chunker, "mapping": new.mapping}
        planned = self._wanted.config.embedder == new.embedder
        return plan_making(old.model_copy(update=parts), like=self._wanted if planned else now)

    # --- running --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._active = self._open()
            while not self.control.wait_stop(POLL_SECONDS):
                keep_trying(self._look, self.control)
        except Stopped:
            pass
        except BaseException as error:  # handed to the entry point, which raises it
            self.control.fail(error)
        finally:
            self._close()

    def _open(self) -> RunningIndex:
        """The index that the alias names, or the first one, serving and synced."""
        alias, control = self._alias, self.control
        target = keep_trying(alias.target, control)
        name = target or self._name(self._wanted)
        with self._opened(name) as index:
            recipe = keep_trying(index.recipe, control)
            making = self._wanted
            if recipe is not None and not making.makes(recipe):
                keep_trying(partial(check_is_alias, alias), control)
                making = make_again(recipe, making)
            keep_trying(partial(index.open, making.recipe), control)
            if target is None:
                keep_trying(partial(alias.point_to, name), control)
            active = self._start(name, making, index)
        self._serve(active)
        return active

    @contextmanager
    def _opened(self, name: str) -> Iterator[Index]:
        """An index whose store is closed if the context fails."""
        index = Index(self._alias.open(name))
        with ExitStack() as stack:
            stack.callback(index.store.close)
            yield index
            stack.pop_all()

    def _start(self, name: str, making: Making, index: Index) -> RunningIndex:
        running = RunningIndex(name, making, index, self._uri, self.telemetry)
        running.worker.start()
        return running

    def _serve(self, running: RunningIndex) -> None:
        self.serving.switch(Retriever(running.index, running.making.embedder), running.unused.set)

    def _look(self) -> None:
        """One step towards what is wanted. Raises what ended the flow that serves."""
        active = self._active
        assert active is not None
        active.check()
        self._follow_wanted(active)
        if self._building is not None and self._has_caught_up(active, self._building):
            self._switch(active, self._building)
        if time.monotonic() - self._looked_at >= ALIAS_SECONDS:
            self._check_target()
            kept = {running.name for running in (self._active, self._building) if running}
            self._retired.clear({*kept, self._name(self._wanted)}, self._closing)
            self._looked_at = time.monotonic()

    def _follow_wanted(self, active: RunningIndex) -> None:
        wanted, building = self._wanted, self._building
        if building is not None and building.error is not None:
            self._fail(building.name, building.error)
            self._end_building(building)
        elif building is not None and not wanted.makes(building.making.recipe):
            self._end_building(building)
            self._alias.remove(building.name)
        elif building is None and not wanted.makes(active.making.recipe) and not self._failure:
            self._build(wanted, active)

    def _build(self, wanted: Making, active: RunningIndex) -> None:
        name = self._name(wanted)
        if not self._retired.take_back(name, self._closing):
            return
        try:
            with self._opened(name) as index:
                index.open(wanted.recipe)
                index.retire(None)
                if wanted.recipe.model == active.making.recipe.model:
                    index.beside = active.index
                self._building = self._start(name, wanted, index)
        except Misconfigured as error:
            self._fail(name, error)
        else:
            _log.info("reindex_begins", collection=name)

    def _fail(self, name: str, error: BaseException) -> None:
        """What serves goes on; the status tells why nothing is built."""
        self._failure = error
        _log.error("reindex_failed", collection=name, reason=str(error))

    def _end_building(self, building: RunningIndex) -> None:
        building.stop()
        with self._closing:
            self._building = None
            building.index.store.close()

    # --- switching ------------------------------------------------------------------------

    def _has_caught_up(self, old: RunningIndex, new: RunningIndex) -> bool:
        """Whether the new one reflects what the old one did a moment ago, and is complete."""
        before = old.index.watermark()
        now = new.index.watermark()
        return now is not None and (before is None or now >= before)

    def _switch(self, old: RunningIndex, new: RunningIndex) -> None:
        if not self._pinned.acquire(blocking=False):
            return  # somebody compares the index that serves with the database
        try:
            # Stopped first, so that `as_of` never goes back: nobody has seen a later one.
            old.stop()
            old.check()
            try:
                reached = self._reaches(new, old)
                if reached:
                    self._alias.point_to(new.name)
            except Unavailable:
                old.start_again()
                raise
            if reached:
                self._replace(old, new)
            else:
                old.start_again()
        finally:
            self._pinned.release()

    def _reaches(self, new: RunningIndex, old: RunningIndex) -> bool:
        until = time.monotonic() + CATCH_UP_SECONDS
        while not self._has_caught_up(old, new):
            if new.error is not None or time.monotonic() > until:
                return False
            if self.control.wait_stop(POLL_SECONDS / 5):
                raise Stopped("stopped before the new index had caught up")
        return True

    def _replace(self, old: RunningIndex, new: RunningIndex) -> None:
        """The alias names the new one: so do we."""
        self._active, self._building = new, None
        self._serve(new)
        with new.index.applying:
            new.index.beside = None
        self._retired.add(old)
        _log.info("reindex_switched", collection=new.name, before=old.name)

    def _check_target(self) -> None:
        """Another process that builds the same may have moved the alias; one that builds something
        else shows that their settings differ."""
        active, building, target = self._active, self._building, self._alias.target()
        assert active is not None
        if target == active.name:
            return
        if building is not None and target == building.name:
            active.stop()
            self._replace(active, building)
            return
        raise Misconfigured(
            f"another process moved the alias {self._alias.name!r} from {active.name!r} to "
            f"{target!r}, which this one does not sync",
            "give all processes the same settings, and start again",
        )

    # --- ending, telling ------------------------------------------------------------------

    def _close(self) -> None:
        running = [each for each in (self._active, self._building) if each is not None]
        for each in running:
            each.worker.control.request_stop()
        for each in running:
            each.stop()
        with self._closing:
            for each in running:
                each.index.store.close()
            self._retired.close()
            self._alias.close()
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

    def _tell_building(self, active: RunningIndex | None) -> Mapping[str, Any] | None:
        wanted = self._wanted
        if active is None or wanted.makes(active.making.recipe):
            return None
        return tell_building(self._name(wanted), wanted, self._building, self._failure)

    def _name(self, making: Making) -> str:
        return index_name(self._alias.name, making.recipe)
