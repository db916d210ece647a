"""One index: its ledger, its chunks and what feeds it, over any store.

Everything here is about one collection of points, which several writers may share. Reads and
writes are small and named after what they mean; the order in which writes are done is decided by
the apply step, not here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

from connectors.feed import Feed
from connectors.fields import MetadataFields
from connectors.ledger import NEVER, Ledger
from connectors.mapped import MappedBy
from connectors.rebasing import rebase
from connectors.store import Conditional, Dense, FieldType, Point, Sparse, Store, Stored
from connectors.sweeping import Sweeping
from models import points
from models.conditions import All, Condition, Either, Match
from models.ids import recipe_fingerprint, single_id
from models.points import OWN, StoredChunk
from models.records import (
    ALL_COLLECTIONS,
    ChunkPoint,
    Entry,
    Key,
    Position,
    Recipe,
    Retired,
    Version,
)
from syncline.errors import Misconfigured, PositionLost

PAGE = 1_000
"""Points a scroll asks for at once: a few MB of payload at the most usual sizes."""
UNLISTED_AT_ONCE = 64
"""Documents whose unlisted chunks one delete removes, each under a condition of its own."""


class Counts(NamedTuple):
    """What the index holds."""

    indexed: int
    failed: int
    deleted: int
    chunks: int


class Unlisted(NamedTuple):
    """Chunks that a document's entry no longer lists, last written by a change before `version`
    (`inclusive`: or by that one)."""

    key: Key
    ids: Sequence[str]
    version: Version
    inclusive: bool = False


class Index:
    """An open index. All methods raise `Unavailable` while the store does not answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.applying = threading.Lock()
        """Held from a plan's reads to its last write, so that writers of one process, as flow and
        repair, do not overtake each other for nothing."""
        self.beside: Index | None = None
        """Another index of the same model, whose vectors are taken over instead of computed."""
        self._fields = MetadataFields(store)
        ledger, feed = Ledger(store), Feed(store)
        sweeping = Sweeping(store, ledger)
        # The parts of an index, in their own modules; said here once, as what an index can do.
        self.entries, self.standing, self.commit = ledger.entries, ledger.standing, ledger.commit
        self.hidden_below, self.put_floor = ledger.hidden_below, ledger.put_floor
        self.unread, self.forget = ledger.unread, ledger.forget
        self.rewind = ledger.rewind
        self.position, self.put_position = feed.position, feed.put_position
        self.feed_directly, self.feed_from_topic = feed.feed_directly, feed.feed_from_topic
        self.put_marks, self.marks = feed.put_marks, feed.marks
        self.watermark = feed.watermark
        self.sweep = sweeping.sweep
        mapped = MappedBy(store)
        self.rules, self.put_rules, self.forget_rules = mapped.rules, mapped.put, mapped.forget
        self.rebase = partial(rebase, store, ledger, self.applying)

    # --- opening --------------------------------------------------------------------------

    def open(self, recipe: Recipe) -> None:
        """Create the index, or make sure that it was built by `recipe`.

        Raises `Misconfigured` if it was built by another one, or is not Syncline's at all.
        """
        created = self.store.create(recipe.dimension)
        self._check_conditions()
        known = self.recipe()
        if known is None:
            if not created and self.store.count(points.FOREIGN):
                raise Misconfigured(
                    "the Qdrant collection already holds points that Syncline did not write",
                    "set qdrant.collection to a name of its own",
                    code="index_foreign",
                )
            # Several writers may open a new index at once: the first one's recipe stands.
            made = Point(single_id("recipe"), points.single_payload("recipe", recipe))
            self.store.upsert_conditionally([Conditional([made], NEVER)])
            known = self.recipe() or recipe
        self.check(known, recipe)
        for path, field_type in points.INDEXED_FIELDS.items():
            self.store.create_field_index(path, cast(FieldType, field_type))
        self._fields.read()

    @staticmethod
    def check(known: Recipe, wanted: Recipe) -> None:
        """Raises `Misconfigured` if an index of one recipe cannot be gone on with by the other."""
        if recipe_fingerprint(known) != recipe_fingerprint(wanted):
            raise Misconfigured(_differences(known, wanted), _RECIPE_REMEDY, code="recipe_changed")

    def recipe(self) -> Recipe | None:
        """What the index is made of; None if it is empty or does not exist."""
        found = self.store.retrieve([single_id("recipe")]) if self.store.exists() else []
        return points.read_recipe(found[0].payload) if found else None

    def retire(self, at: float | None) -> None:
        """Note that the index serves no longer since `at`, in Unix time, or with None that it is
        wanted again."""
        if at is None:
            self.store.delete([single_id("retired")])
        else:
            payload = points.single_payload("retired", Retired(at=at))
            self.store.upsert([Point(single_id("retired"), payload)])

    def retired(self) -> float | None:
        """Since when it serves no longer; None if nobody has said so."""
        found = self.store.retrieve([single_id("retired")]) if self.store.exists() else []
        return points.read_retired(found[0].payload).at if found else None

    def _check_conditions(self) -> None:
        """A server that does not know guarded writes ignores the guard, in silence."""
        # One point for all, which stays: nobody who dies in between leaves more than that, and
        # nobody takes away what another one, who opens the index as well, is looking at.
        kept = Point(single_id("probe"), {OWN: {"kind": "probe"}})
        changed = kept._replace(payload={OWN: {"kind": "probe", "changed": True}})
        never_made = kept._replace(id=single_id("probe never made"))
        self.store.upsert([kept])
        self.store.upsert_conditionally(
            [Conditional([changed], NEVER), Conditional([never_made], NEVER, insert=False)]
        )
        found = self.store.retrieve([kept.id, never_made.id])
        if [(stored.id, stored.payload) for stored in found] != [(kept.id, kept.payload)]:
            self.store.delete([kept.id, never_made.id])
            raise Misconfigured(
                "this Qdrant server ignores the condition of a write, which guards every entry",
                "upgrade Qdrant to 1.17 or later",
                code="qdrant_unfit",
            )

    # --- chunks ---------------------------------------------------------------------------

    def stored_chunks(self, keys: Sequence[Key]) -> dict[Key, dict[str, StoredChunk]]:
        """Every chunk point of these documents, listed by an entry or not, without its text."""
        found: dict[Key, dict[str, StoredChunk]] = {key: {} for key in keys}
        condition = points.of_kind("chunk", points.of_keys(tuple(keys)))
        for stored in self.scroll(condition, payload=_NO_TEXT) if keys else ():
            chunk = points.read_chunk(stored.id, stored.payload)
            found.setdefault(chunk.key, {})[chunk.id] = chunk
        return found

    def chunks(self, ids: Sequence[str]) -> dict[str, StoredChunk]:
        """Chunks by id, with their text."""
        return self._chunks(ids, True)

    def look_at(self, ids: Sequence[str]) -> dict[str, StoredChunk]:
        """Chunks by id, without their text."""
        return self._chunks(ids, _NO_TEXT)

    def vectors_of(self, hashes: Sequence[str]) -> dict[str, Dense]:
        """Vectors that are stored for these hashes anywhere in the index, as far as one page goes;
        else those of the index `beside` it.

        The same model input has the same vector, whatever document it stands in: so a renamed
        collection or a copied document is not computed again. Best effort: what is missed is
        embedded.
        """
        if not hashes:
            return {}
        condition = points.of_kind("chunk", Match(path=(OWN, "hash"), values=tuple(hashes)))
        found, _ = self.store.scroll(
            condition, limit=min(4 * len(hashes), PAGE), payload=[OWN], dense=True
        )
        vectors = {s.payload[OWN]["hash"]: s.dense for s in found if s.dense is not None}
        if self.beside is not None:
            vectors |= self.beside.vectors_of([h for h in hashes if h not in vectors])
        return vectors

    def put_chunks(self, chunks: Sequence[ChunkPoint]) -> None:
        """Store chunks with their vectors; invisible until an entry lists them.

        One that is there already stays as it is: a writer that has stalled must not change what
        has been listed meanwhile. Look at them to know.
        """
        for metadata in {id(c.metadata): c.metadata for c in chunks}.values():
            self._fields.index(metadata)
        new = [Point(c.id, points.chunk_payload(c), c.dense, Sparse(*c.sparse)) for c in chunks]
        self.store.upsert_conditionally([Conditional(new, NEVER)])

    def stamp(self, ids: Sequence[str], version: Version) -> None:
        """Make chunks those of a change at `version`, unless a newer one has written them: from
        then on no older one can rewrite or remove them."""
        only_if, at = points.written_up_to(version), (OWN, "written")
        self.store.set_payload(ids, version._asdict(), only_if=only_if, at=at)

    def put_own(self, chunk: StoredChunk) -> None:
        """Replace what stands under our own key of a chunk, unless a newer change wrote it."""
        own = points.own_chunk_payload(chunk.key, chunk.version, chunk.hash, chunk.headings)
        only_if = points.written_up_to(chunk.version)
        self.store.set_payload([chunk.id], {OWN: own}, only_if=only_if)

    def put_metadata(
        self, ids: Sequence[str], metadata: Mapping[str, Any], version: Version
    ) -> None:
        """Replace the metadata of chunks, which `stamp` must have been told of before, except of
        those that a newer change wrote."""
        self._fields.index(metadata)
        only_if = points.written_up_to(version)
        self.store.set_payload(ids, {"metadata": dict(metadata)}, only_if=only_if)

    def delete_unlisted(self, unlisted: Sequence[Unlisted]) -> None:
        """Remove chunks that entries no longer list, as far as no newer change took them up."""
        some = [each for each in unlisted if each.ids]
        for start in range(0, len(some), UNLISTED_AT_ONCE):
            part = some[start : start + UNLISTED_AT_ONCE]
            ids = [id_ for each in part for id_ in each.ids]
            self.store.delete(ids, only_if=Either(conditions=tuple(map(_unlisted, part))))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points, whoever wrote them."""
        if ids:
            self.store.delete(ids)

    # --- position -------------------------------------------------------------------------

    def resumable_position(self) -> Position | None:
        """The position, made void if a newer snapshot was begun and never acknowledged.

        Its floor stands already: going on below it would drop what comes as too old. Raises
        `PositionLost` if there is one that cannot be read.
        """
        position = self.position()
        if position is None and self.store.retrieve([single_id("position")], payload=False):
            raise PositionLost("the position in the index cannot be read")
        floor = self.hidden_below([ALL_COLLECTIONS]).get(ALL_COLLECTIONS)
        if position is None or floor is None or floor <= position.start:
            return position
        return position.model_copy(update={"scope": ""})

    # --- reading it all -------------------------------------------------------------------

    def counts(self) -> Counts:
        """How many documents of each state and chunk points there are."""
        states = [
            self.store.count(points.of_kind("entry", Match(path=(OWN, "state"), values=(state,))))
            for state in ("indexed", "failed", "deleted")
        ]
        indexed, failed, deleted = states
        return Counts(indexed, failed, deleted, self.store.count(points.of_kind("chunk")))

    def scroll(
        self, condition: Condition, *, payload: bool | Sequence[str] = True, page: int = PAGE
    ) -> Iterator[Stored]:
        """All points for which `condition` holds, page by page."""
        after: str | None = None
        while True:
            found, after = self.store.scroll(condition, limit=page, after=after, payload=payload)
            yield from found
            if after is None:
                return

    def failed(self, limit: int) -> list[Entry]:
        """Documents whose newest version could not be indexed."""
        bad = points.of_kind("entry", Match(path=(OWN, "state"), values=("failed",)))
        return [points.read_entry(s.payload) for s in islice(self.scroll(bad), limit)]

    def _chunks(self, ids: Sequence[str], payload: bool | Sequence[str]) -> dict[str, StoredChunk]:
        found = self.store.retrieve(ids, payload=payload) if ids else []
        return {s.id: points.read_chunk(s.id, s.payload) for s in found}


_NO_TEXT = (OWN, "metadata")


def _unlisted(unlisted: Unlisted) -> Condition:
    written = points.written_up_to if unlisted.inclusive else points.written_before
    return All(conditions=(points.of_keys((unlisted.key,)), written(unlisted.version)))


def _differences(known: Recipe, wanted: Recipe) -> str:
    was, wish = known.model_dump(), wanted.model_dump()
    parts = [f"{k} {was[k]!r}, now {wish[k]!r}" for k in was if was[k] != wish[k] and k != "load"]
    return "the index was built with another recipe: " + "; ".join(parts)


_RECIPE_REMEDY = (
    "`syncline reindex` builds a new one beside it, `syncline up` and `sync` do so at their start;"
    " over Pulsar set qdrant.collection to another name"
)
