"""The index dataflow: Pulsar -> look up references -> map -> the steps of the direct flow.

Its position is the subscription's cursor, moved by the same rule as the direct flow's: Bytewax
runs without recovery, and lets a source emit into an epoch only when all of the epoch before has
been written.
"""

from __future__ import annotations

from functools import partial

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from connectors.feed import stands
from connectors.index import Index
from connectors.mongo_lookup import MongoLookup
from connectors.pulsar_consumers import Arriving, PulsarConsumers
from connectors.pulsar_source import Places
from flows.acknowledge import Flushes, Sweeper
from flows.apply import Applier
from flows.steps import Steps
from flows.sync import Preparation, add_steps, contained
from models.records import Advance, Change, Failed, Item, Mark, Share, Timestamp
from syncline.control import Control
from syncline.retry import keep_trying

_log = structlog.get_logger(__name__)

SNAPSHOT = "snapshot"
"""What an index waits for into which some messages never came: it is new or restored, and the
subscription is older, or the broker has let them go."""
_GAP = "messages that this index never got are missing, partitions"
_GAP_REMEDY = "publish everything once more: syncline capture --snapshot"


def build_flow(
    source: Source[Arriving],
    lookup: MongoLookup,
    steps: Steps,
    applier: Applier,
    control: Control,
    *,
    preparation: Preparation | None = None,
) -> Dataflow:
    """The graph. Nothing is opened before it runs."""
    flow = Dataflow("index")
    arrived = op.input("pulsar", flow, source)
    found = op.flat_map_batch("look_up", arrived, contained(lookup.resolve, control))
    mapped = op.flat_map_batch("map", found, contained(partial(_map, steps), control))
    add_steps(mapped, steps, applier, control, preparation)
    return flow


def _map(steps: Steps, batch: list[Change | Failed]) -> list[Item]:
    """What failed before it could be mapped flows on, into the ledger."""
    return [item if isinstance(item, Failed) else steps.map_change(item) for item in batch]


class AcknowledgePlaces:
    """Called by the source with the places behind which everything is written.

    The watermark of a partition moves at once. The broker is told only after a flush, so not even
    a power cut can leave an acknowledged message without what it stands for.
    """

    def __init__(
        self, index: Index, consumers: PulsarConsumers, control: Control, *, tombstone_seconds: int
    ) -> None:
        self._index = index
        self._consumers = consumers
        self._control = control
        self._flushes = Flushes(index.store, control)
        self._sweeper = Sweeper(index, tombstone_seconds=tombstone_seconds)
        self._marked: Places = {}
        self._put: dict[int, Mark] = {}
        self._gaps: list[int] = []
        self._flushed: Places = {}

    def __call__(self, places: Places) -> bool:
        """Keep `places`; whether it should be called again soon, with nothing new if need be.

        Raises `Stopped` if a stop is asked for while the index is away.
        """
        return keep_trying(partial(self._keep, places), self._control)

    def _keep(self, places: Places) -> bool:
        self._mark(places)
        if places != self._flushed and self._flushes.is_due:
            self._flush(places)
        more = self._sweeper.sweep(self._passed())
        return more or places != self._flushed or bool(self._gaps)

    def _passed(self) -> dict[Share, Timestamp]:
        """Up to where the partitions that are read here may be swept: not before all others are
        there too, because a renamed document takes its vectors from the old one, elsewhere."""
        whole = self._index.watermark()
        return {
            Share(m.partition, m.of): min(m.watermark, whole)
            for m in (advance.mark for advance in _advances(self._flushed))
            if m.watermark and whole
        }

    def _mark(self, places: Places) -> None:
        before = _advances(self._marked)
        if new := [advance for advance in _advances(places) if advance not in before]:
            gaps = self._index.put_marks([self._behind_own(advance) for advance in new])
            self._put |= {a.mark.partition: a.mark for a in new if a.mark.partition not in gaps}
        self._marked = places
        self._show_gaps(places)

    def _behind_own(self, advance: Advance) -> Advance:
        """It has to follow the mark that was put last: an index that lost that one lost more."""
        put = self._put.get(advance.mark.partition)
        if put is None or put.generation != advance.mark.generation:
            return advance
        return Advance(advance.mark, max(put.beat, advance.after))

    def _show_gaps(self, places: Places) -> None:
        """What comes is written all the same; but the index does not count as in line.

        A partition that is in line is so whoever read it: another one may have it by now.
        """
        own = {a.mark.partition: a.mark for a in _advances(places)}
        if own == self._put and not self._gaps:
            return
        marks = self._index.marks()
        self._gaps = [k for k, mark in sorted(own.items()) if not stands(mark, marks)]
        if not self._gaps:
            self._control.available(SNAPSHOT)
        elif self._control.unavailable(SNAPSHOT, f"{_GAP} {self._gaps}; {_GAP_REMEDY}"):
            _log.error("messages_missing", partitions=self._gaps, remedy=_GAP_REMEDY)

    def _flush(self, places: Places) -> None:
        self._flushes.flush()
        moved = {k: p.id for k, p in places.items() if p != self._flushed.get(k)}
        self._consumers.acknowledge(moved)
        self._flushed = places


def _advances(places: Places) -> list[Advance]:
    """How far each partition is from which a heartbeat came, or the begin of a generation."""
    return [place.advance for place in places.values() if place.advance is not None]
