"""Puts the parts together as the configuration says: the only place that chooses between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.alias import Alias
from connectors.index import Index
from connectors.store import Store
from models import embedders
from models.embedders import Embedder
from models.ids import digest
from models.points import CODEC_VERSION
from models.records import Recipe
from syncline.control import Control
from syncline.errors import Misconfigured
from syncline.settings import Configuration
from transforms.chunk import Chunker

if TYPE_CHECKING:
    from pymongo import MongoClient

    from connectors.mongo import MongoScope
    from connectors.qdrant import QdrantStore
    from flows.sync import Preparation


UNIX = "unix://"
"""Of a URL that names the socket on which another local process shares its index."""


def open_store(config: Configuration) -> Store:
    """The collection or alias `qdrant.collection` on the Qdrant server at `qdrant.url`, another
    local process's store (`unix://<socket>`), or Qdrant Edge below `local.data_dir`.
    """
    if config.qdrant.url.startswith(UNIX):
        from connectors.store_client import RemoteStore

        return RemoteStore(Path(config.qdrant.url.removeprefix(UNIX)))
    if config.qdrant.url:
        return _connect_qdrant(config, config.qdrant.collection)
    from connectors.qdrant_edge import EdgeStore

    return EdgeStore(config.local.data_dir / "index" / config.qdrant.collection)


def open_alias(config: Configuration) -> Alias:
    """The alias `qdrant.collection`, on the Qdrant server or for Qdrant Edge; the store itself, if
    another local process shares it."""
    if config.qdrant.url.startswith(UNIX):
        from connectors.shared_alias import SharedAlias

        return SharedAlias(config.qdrant.collection, partial(open_store, config))
    if config.qdrant.url:
        from connectors.qdrant_alias import QdrantAlias

        client = _connect_qdrant(config, config.qdrant.collection).client
        return QdrantAlias(client, config.qdrant.collection, partial(_connect_qdrant, config))
    from connectors.qdrant_edge_alias import EdgeAlias

    return EdgeAlias(config.local.data_dir / "index", config.qdrant.collection)


def _connect_qdrant(config: Configuration, collection: str) -> QdrantStore:
    from connectors.qdrant import connect

    return connect(
        config.qdrant.url,
        collection=collection,
        api_key=config.qdrant.api_key.get_secret_value() or None,
        ca_file=config.qdrant.ca_file,
        timeout_seconds=config.qdrant.timeout_seconds,
    )


def load_embedder(config: Configuration) -> Embedder:
    """The configured model. `hash:<dimension>` is a stand-in for tests and measurements."""
    part = config.embedder
    if part.model.startswith("hash:"):
        size = part.model.removeprefix("hash:")
        if not size.isdigit() or not 8 <= int(size) <= 4096:
            raise Misconfigured(
                f"embedder.model = {part.model!r} is no model", "write hash:<8..4096>, or a model"
            )
        return embedders.HashEmbedder(dimension=int(size))
    return embedders.SentenceTransformerEmbedder.load(
        part.model, device=part.device, dtype=part.dtype, batch_tokens=part.batch_tokens
    )


def make_chunker(config: Configuration, embedder: Embedder) -> Chunker:
    """A chunker in the model's own tokens."""
    wanted = config.chunker.max_tokens
    if wanted is not None and wanted > embedder.max_tokens:
        raise Misconfigured(
            f"chunker.max_tokens = {wanted} is more than {embedder.name} can read "
            f"({embedder.max_tokens})",
            f"set it to at most {embedder.max_tokens}, or leave it out",
        )
    return Chunker(embedder, wanted or embedder.max_tokens)


@contextlib.contextmanager
def preparation(
    config: Configuration, embedder: Embedder, chunker: Chunker, control: Control
) -> Iterator[Preparation | None]:
    """Cleaning and chunking in `flow.processes` processes; None where the flow does it itself."""
    if not config.flow.processes:
        yield None
        return
    from flows.parallel import ParallelPreparation
    from models.tokenizing import portable_text

    parallel = ParallelPreparation(
        chunker,
        portable_text(embedder),
        config.chunker.max_tokens or embedder.max_tokens,
        processes=config.flow.processes,
        control=control,
    )
    try:
        yield parallel.clean_and_chunk
    finally:
        parallel.close()


def make_recipe(embedder: Embedder, chunker: Chunker, *, load: str = "") -> Recipe:
    """What an index built with these parts is made of; `load` finds the model again."""
    return Recipe(
        model=embedder.name,
        dimension=embedder.dimension,
        max_tokens=embedder.max_tokens,
        chunker=chunker.fingerprint,
        codec=CODEC_VERSION,
        load=load,
    )


def make_scope(config: Configuration) -> MongoScope:
    """What is read from MongoDB."""
    from connectors.mongo import MongoScope

    return MongoScope(
        database=config.mongo.database,
        collections=config.mongo.collections,
        exclude_fields=config.mongo.exclude_fields,
    )


def scope_fingerprint(config: Configuration) -> str:
    """Names what is read and how it is mapped: when it changes, everything is read again."""
    return digest(
        config.mongo.database,
        *sorted(config.mongo.collections),
        "fields",
        *sorted(config.mongo.exclude_fields),
        "rules",
        *_rules(config),
    )


def mapping_fingerprint(config: Configuration) -> str:
    """Names how documents are mapped, wherever they are read from."""
    return digest(*_rules(config))


def _rules(config: Configuration) -> list[str]:
    return [f"{name}={rule.model_dump_json()}" for name, rule in sorted(config.mapping.items())]


def connect_mongo(uri: str) -> MongoClient[dict[str, Any]]:
    """A client for a MongoDB; connects when it is first used."""
    from connectors.mongo import connect

    return connect(uri, app_name="syncline")


def open_index(config: Configuration) -> Index:
    """The index, not yet created or checked."""
    return Index(open_store(config))


NOTHING_HELD: Mapping[str, Any] = {
    "documents": {"indexed": 0, "failed": 0, "deleted": 0},
    "chunks": 0,
    "watermark": None,
    "generation": None,
}


def describe(index: Index) -> Mapping[str, Any]:
    """What the index holds, as `/v1/status` tells it."""
    counts, position, watermark = index.counts(), index.position(), index.watermark()
    generations = [mark.generation for mark in index.marks().values()]
    if position is not None:
        generations.append(position.generation)
    return {
        "documents": {
            "indexed": counts.indexed,
            "failed": counts.failed,
            "deleted": counts.deleted,
        },
        "chunks": counts.chunks,
        "watermark": str(watermark) if watermark else None,
        "generation": max(generations, default=None),
    }
