"""The steps over any store, without MongoDB and without the engine: what unit tests drive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from connectors.index import Index
from connectors.memory import MemoryStore
from connectors.store import Store
from flows.apply import Applier
from flows.steps import Steps
from models.conditions import All
from models.embedders import HashEmbedder
from models.ids import key_of
from models.points import CODEC_VERSION
from models.records import Change, Delete, Item, Recipe, Upsert, Version
from syncline.control import Control
from syncline.rules import MappingRule
from syncline.telemetry import Telemetry
from transforms.chunk import Chunker

DIMENSION = 64
MAX_TOKENS = 64
ANYTHING = All(conditions=())


class Pipeline:
    """Applies changes to an index; `run` is what one batch of the dataflow does."""

    def __init__(
        self, store: Store | None = None, rules: Mapping[str, MappingRule] | None = None
    ) -> None:
        self.store = store if store is not None else MemoryStore()
        self.index = Index(self.store)
        self.control = Control()
        self.telemetry = Telemetry()
        self.embedder = HashEmbedder(DIMENSION, MAX_TOKENS)
        chunker = Chunker(self.embedder, MAX_TOKENS)
        self.recipe = Recipe(
            model=self.embedder.name,
            dimension=DIMENSION,
            max_tokens=MAX_TOKENS,
            chunker=chunker.fingerprint,
            codec=CODEC_VERSION,
        )
        self.index.open(self.recipe)
        given = rules or {}
        self.steps = Steps(
            lambda name: given.get(name, MappingRule()), chunker, self.index, self.control
        )
        self.applier = Applier(
            self.index,
            self.embedder,
            self.steps.prepare,
            control=self.control,
            telemetry=self.telemetry,
        )

    def items(self, changes: Iterable[Change]) -> list[Item]:
        """The changes, mapped, cleaned and chunked."""
        mapped = self.steps.skip_unchanged(self.steps.map(list(changes)))
        return self.steps.chunk(self.steps.clean(mapped))

    def run(self, *changes: Change) -> int:
        """Apply one batch; returns how many chunks were embedded for it."""
        before = self.telemetry.embedded_total
        self.applier.apply(self.items(changes))
        return self.telemetry.embedded_total - before

    def state(self) -> dict[str, Any]:
        """Every visible point: entries, and the chunks they list."""
        found = {p.id: p.payload for p in self.index.scroll(ANYTHING)}
        listed = {
            chunk
            for payload in found.values()
            if payload["syncline"]["kind"] == "entry"
            for chunk in payload["syncline"]["chunks"]
        }
        return {
            id_: payload
            for id_, payload in found.items()
            if payload["syncline"]["kind"] != "chunk" or id_ in listed
        }

    def orphans(self) -> int:
        """Chunk points that no entry lists."""
        return len(list(self.index.scroll(ANYTHING))) - len(self.state())


def put(doc_id: Any, at: tuple[int, ...], collection: str = "notes", **fields: Any) -> Upsert:
    """An upsert of a document at version `at`."""
    return Upsert(
        key=key_of(collection, doc_id), version=Version(*at), fields={"_id": doc_id, **fields}
    )


def gone(doc_id: Any, at: tuple[int, ...], collection: str = "notes") -> Delete:
    """A delete at version `at`."""
    return Delete(key=key_of(collection, doc_id), version=Version(*at))


def paragraphs(count: int, **replaced: str) -> str:
    """A text of `count` different paragraphs; `p3="..."` replaces the third (from 0)."""
    lines = [
        f"Paragraph {n} tells of keeper {n * 7} and of {n * 13} ships that passed in winter."
        for n in range(count)
    ]
    for name, line in replaced.items():
        lines[int(name.removeprefix("p"))] = line
    return "\n\n".join(lines)
