"""How far the index reflects the database: one position, or a mark for each partition of a topic.

Fed directly, the position is also where the source goes on. Fed from a topic, the broker knows
where each partition goes on, and the marks only tell readers; the point `feed` says how many there
must be. It outranks a position, so there is no moment at which a watermark is taken for another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from connectors.store import Conditional, Point, Store
from models import points
from models.ids import single_id
from models.points import OWN, Payload
from models.records import Advance, Mark, Position, Timestamp


class Feed:
    """The points of one index that say what feeds it and how far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._partitions = 0
        """As last seen, so that feed and marks are mostly read in one call."""

    def position(self) -> Position | None:
        """Where the direct source goes on; None before the first acknowledgement, and where a
        topic feeds the index."""
        found = self._read([single_id("position"), single_id("feed")])
        return None if "feed" in found else _position(found)

    def put_position(self, position: Position) -> None:
        """Keep the position: all that it is behind must have been written before."""
        payload = points.single_payload("position", position)
        self._store.upsert([Point(single_id("position"), payload)])

    def feed_directly(self) -> None:
        """From now on a direct flow feeds the index, from a new snapshot if a topic did so far."""
        found = self._read([single_id("feed")])
        if "feed" in found:
            partitions = points.read_feed(found["feed"])
            self._store.delete([single_id("position"), *_mark_ids(range(partitions))])
            # Last: until then a crash leaves an index without a watermark, not with a wrong one.
            self._store.delete([single_id("feed")])

    def feed_from_topic(self, partitions: int) -> None:
        """From now on a topic of so many partitions feeds the index. Again, or by each of several
        flows: nothing more.

        The watermark is unset until every partition has a mark.
        """
        found = self._read([single_id("feed")])
        before = points.read_feed(found["feed"]) if "feed" in found else 0
        if before != partitions:
            feed = Point(single_id("feed"), points.feed_payload(partitions))
            self._store.upsert([feed])
        # Marks of another number of partitions count for nothing and are replaced; those beyond:
        gone = _mark_ids(range(partitions, before))
        self._store.delete([single_id("position"), *gone])

    def put_marks(self, advances: Sequence[Advance]) -> list[int]:
        """Say how far partitions are: all that the marks are behind must have been written before.

        A mark that is further already stays, so a flow that lags or has stalled takes none back;
        and no mark is put across a gap. Returns the partitions that have one: what stood in the
        topic between their mark and this one never came into this index.
        """
        self._store.upsert_conditionally([_guarded(advance) for advance in advances])
        marks = self.marks()
        return [a.mark.partition for a in advances if not stands(a.mark, marks)]

    def marks(self) -> dict[int, Mark]:
        """The marks there are, by partition; none where no topic feeds the index."""
        _, marks = self._feed()
        return marks

    def watermark(self) -> Timestamp | None:
        """The cluster time up to which the index reflects the database, None while unknown: the
        position's, or the least of all partitions, once all are past every floor."""
        found, marks = self._feed()
        if "feed" not in found:
            position = _position(found)
            return position.watermark if position else None
        if len(marks) < self._partitions:
            return None
        reached = [mark.watermark for mark in marks.values() if mark.watermark]
        if len(reached) < len(marks) or len({mark.generation for mark in marks.values()}) > 1:
            return None
        # A floor holds for all partitions from the moment that one of them brings it: until the
        # others are past it too, the index stands at no one time.
        least = min(reached)
        return None if self._store.count(points.floors_after(least)) else least

    def _feed(self) -> tuple[dict[str, Payload], dict[int, Mark]]:
        while True:
            partitions = range(self._partitions)
            singles = [single_id("position"), single_id("feed")]
            found = self._read([*singles, *_mark_ids(partitions)])
            now = points.read_feed(found["feed"]) if "feed" in found else 0
            if now <= len(partitions):
                break
            self._partitions = now
        self._partitions = now
        ids = {_mark_id(k): k for k in range(now)}
        marks = {k: points.read_mark(found[id_]) for id_, k in ids.items() if id_ in found}
        return found, {k: mark for k, mark in marks.items() if mark.of == now}

    def _read(self, ids: Sequence[str]) -> dict[str, Payload]:
        """By kind, marks by id."""
        found = {}
        for stored in self._store.retrieve(ids):
            kind = stored.payload[OWN]["kind"]
            found[stored.id if kind == "mark" else kind] = dict(stored.payload)
        return found


def _guarded(advance: Advance) -> Conditional:
    mark = advance.mark
    point = Point(_mark_id(mark.partition), points.mark_payload(mark))
    if advance.begins:
        return Conditional([point], points.not_beyond(mark))
    return Conditional([point], points.continues(advance), insert=False)


def stands(mark: Mark, marks: Mapping[int, Mark]) -> bool:
    """Whether this mark was put, or one that is further."""
    found = marks.get(mark.partition)
    return found is not None and (found.generation, found.beat) >= (mark.generation, mark.beat)


def _position(found: dict[str, Payload]) -> Position | None:
    return points.read_position(found["position"]) if "position" in found else None


def _mark_id(partition: int) -> str:
    return single_id(f"mark/{partition}")


def _mark_ids(partitions: Iterable[int]) -> list[str]:
    return [_mark_id(partition) for partition in partitions]
