"""An index and its successor: the steps from the one that serves to the one that is wanted.

One thread takes the steps, in `Indexes`. A crash between any two of them resumes, because what
serves is what the alias says, and all else is stored in the indexes themselves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import structlog

from connectors.alias import Alias, check_is_alias
from connectors.index import Index
from models.ids import index_name
from retriever.search import Retriever
from retriever.serving import Serving
from syncline.control import Control
from syncline.errors import Misconfigured, PositionLost, Stopped, Unavailable
from syncline.making import Making, make_again
from syncline.retired import RetiredIndexes
from syncline.retry import keep_trying
from syncline.running_index import RunningIndex
from syncline.telemetry import Telemetry

_log = structlog.get_logger("syncline")

ALIAS_SECONDS = 1.0
"""Between two looks at the alias and at what has been retired, which may ask a server."""
CATCH_UP_SECONDS = 10.0
"""How long no flow may write to the index that serves, while the new one covers its last steps."""
CATCH_UP_POLL_SECONDS = 0.02


class Succession:
    """What runs behind one alias. One caller at a time, but for what is only read."""

    def __init__(
        self, alias: Alias, uri: str, wanted: Making, control: Control, telemetry: Telemetry
    ) -> None:
        self.alias = alias
        self.wanted = wanted
        """What is to serve. Whoever changes it holds `deciding`."""
        self.failure: BaseException | None = None
        """Why what is wanted is not being built."""
        self.serving = Serving()
        self.active: RunningIndex | None = None
        self.building: RunningIndex | None = None
        self.retired = RetiredIndexes(alias, wanted.config.qdrant.grace_seconds)
        self.closing = threading.Lock()
        """Held while stores are read by others than requests, and while one is closed."""
        self.deciding = threading.Lock()
        self.pinned = threading.Lock()
        """Held while the index that serves must stay the same."""
        self._uri = uri
        self._control = control
        self._telemetry = telemetry
        self._looked_at = 0.0

    def name_of(self, making: Making) -> str:
        """The collection of an index."""
        return index_name(self.alias.name, making.recipe)

    # --- beginning and ending -------------------------------------------------------------

    def open(self) -> None:
        """Sync and serve the index that the alias names; if it names none, begin the first one.

        Raises `Stopped`, and `Misconfigured` if what serves cannot be made any more.
        """
        alias, control = self.alias, self._control
        target = keep_trying(alias.target, control)
        name = target or self.name_of(self.wanted)
        with self._opened(name) as index:
            recipe = keep_trying(index.recipe, control)
            making = self.wanted
            if recipe is not None and not making.makes(recipe):
                keep_trying(partial(check_is_alias, alias), control)
                making = make_again(recipe, making)
            keep_trying(partial(index.open, making.recipe), control)
            if target is None:
                keep_trying(partial(alias.point_to, name), control)
            self.active = self._start(name, making, index)
        self._serve(self.active)

    def close(self) -> None:
        """Stop the flows in order, and close everything."""
        running = [each for each in (self.active, self.building) if each is not None]
        for each in running:
            each.worker.control.request_stop()
        for each in running:
            each.stop()
        with self.closing:
            for each in running:
                each.index.store.close()
            self.retired.close()
            self.alias.close()

    @contextmanager
    def _opened(self, name: str) -> Iterator[Index]:
        """An index whose store is closed if the context fails."""
        index = Index(self.alias.open(name))
        with ExitStack() as stack:
            stack.callback(index.store.close)
            yield index
            stack.pop_all()

    def _start(self, name: str, making: Making, index: Index) -> RunningIndex:
        running = RunningIndex(name, making, index, self._uri, self._telemetry)
        running.worker.start()
        return running

    def _serve(self, running: RunningIndex) -> None:
        self.serving.switch(Retriever(running.index, running.making.embedder), running.unused.set)

    # --- building -------------------------------------------------------------------------

    def look(self) -> None:
        """One step towards what is wanted. Raises what ended the flow that serves."""
        active = self.active
        assert active is not None
        active.check()
        with self.deciding:
            self._follow_wanted(active)
            if self.building is not None and has_caught_up(active.index, self.building.index):
                self._switch(active, self.building)
        if time.monotonic() - self._looked_at >= ALIAS_SECONDS:
            self._check_target()
            kept = {running.name for running in (self.active, self.building) if running}
            self.retired.clear({*kept, self.name_of(self.wanted)}, self.closing)
            self._looked_at = time.monotonic()

    def _follow_wanted(self, active: RunningIndex) -> None:
        wanted, building = self.wanted, self.building
        if building is not None and building.error is not None:
            self._fail(building.name, building.error)
            self._end_building(building)
        elif building is not None and not wanted.makes(building.making.recipe):
            self._end_building(building)
            self.alias.remove(building.name)
        elif building is None and not wanted.makes(active.making.recipe) and not self.failure:
            self._build(wanted, active)

    def _build(self, wanted: Making, active: RunningIndex) -> None:
        name = self.name_of(wanted)
        if not self.retired.take_back(name, self.closing):
            return
        try:
            with self._opened(name) as index:
                index.open(wanted.recipe)
                index.retire(None)
                _forget_watermark(index)
                if wanted.recipe.model == active.making.recipe.model:
                    index.beside = active.index
                self.building = self._start(name, wanted, index)
        except Misconfigured as error:
            self._fail(name, error)
        else:
            _log.info("reindex_begins", collection=name)

    def _fail(self, name: str, error: BaseException) -> None:
        """What serves goes on; the status tells why nothing is built."""
        self.failure = error
        _log.error("reindex_failed", collection=name, reason=str(error))

    def _end_building(self, building: RunningIndex) -> None:
        building.stop()
        with self.closing:
            self.building = None
            building.index.store.close()

    # --- switching ------------------------------------------------------------------------

    def _switch(self, old: RunningIndex, new: RunningIndex) -> None:
        if not self.pinned.acquire(blocking=False):
            return  # somebody compares the index that serves with the database
        try:
            # Stopped first, so that `as_of` never goes back: nobody has seen a later one.
            old.stop()
            old.check()
            if self._moves(new, old):
                self._replace(old, new)
            else:
                old.start_again()
        finally:
            self.pinned.release()

    def _moves(self, new: RunningIndex, old: RunningIndex) -> bool:
        """Move the alias once the new one has all that the old one had; False if it takes long."""
        until = time.monotonic() + CATCH_UP_SECONDS
        try:
            while not has_caught_up(old.index, new.index):
                if new.error is not None or time.monotonic() > until:
                    return False
                if self._control.wait_stop(CATCH_UP_POLL_SECONDS):
                    raise Stopped("stopped before the new index had caught up")
            self.alias.point_to(new.name)
        except Unavailable:
            return False
        return True

    def _replace(self, old: RunningIndex, new: RunningIndex) -> None:
        """The alias names the new one: so do we."""
        self.active, self.building = new, None
        self._serve(new)
        with new.index.applying:
            new.index.beside = None
        self.retired.add(old)
        _log.info("reindex_switched", collection=new.name, before=old.name)

    def _check_target(self) -> None:
        """Another process that builds the same may have moved the alias; one that builds something
        else shows that their settings differ."""
        active, building, target = self.active, self.building, self.alias.target()
        assert active is not None
        if target == active.name:
            return
        if target is None:
            raise Misconfigured(
                f"the collection {active.name!r}, which serves, or its alias "
                f"{self.alias.name!r}, was removed",
                "start again: the index is built anew",
                code="index_missing",
            )
        if building is not None and target == building.name:
            active.stop()
            self._replace(active, building)
            return
        raise Misconfigured(
            f"another process moved the alias {self.alias.name!r} from {active.name!r} to "
            f"{target!r}, which this one does not sync",
            "give all processes the same settings, and start again",
        )


def _forget_watermark(index: Index) -> None:
    """What it was in line with when it was built last says nothing: the database may have been
    restored since. Its flow says it anew once it reads."""
    with contextlib.suppress(PositionLost):  # the flow finds that out, and reads everything again
        if (position := index.resumable_position()) is not None:
            index.put_position(position.model_copy(update={"watermark": None}))


def has_caught_up(old: Index, new: Index) -> bool:
    """Whether the new one holds the whole database, as of when the old one does or later."""
    before = old.watermark()
    now = new.watermark()
    return now is not None and (before is None or now >= before)
