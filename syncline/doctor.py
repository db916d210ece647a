"""`syncline doctor`: each thing that has to be right, checked by itself, with its remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncline.errors import Misconfigured, SynclineError, see
from syncline.runtime import find_running
from syncline.server import check_exposure
from syncline.settings import Configuration


def examine(load: Callable[[], Configuration]) -> list[dict[str, Any]]:
    """One dict a check: name, ok, detail, remedy, see. Later checks need the settings."""
    found: list[dict[str, Any]] = []
    settings: list[Configuration] = []

    def settled() -> str:
        settings.append(load())
        check_exposure(settings[0].http)
        return "read and valid"

    found.append(_check("settings", settled))
    if settings:
        probes = [("model", _model), ("mongodb", _mongo), ("qdrant", _qdrant)]
        if settings[0].pulsar.url:
            probes.append(("pulsar", _pulsar))
        for name, probe in probes:
            found.append(_check(name, lambda probe=probe: probe(settings[0])))  # type: ignore[misc]
    return found


def _check(name: str, probe: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "detail": probe(), "remedy": None, "see": None}
    except Misconfigured as error:
        found: dict[str, Any] = {
            "detail": error.problem,
            "remedy": error.remedy,
            "see": see(error.code),
        }
    except SynclineError as error:
        found = {"detail": str(error), "remedy": None, "see": see(error.code)}
    return {"name": name, "ok": False, **found}


def _model(config: Configuration) -> str:
    from syncline.assemble import load_embedder, make_chunker

    embedder = load_embedder(config)
    make_chunker(config, embedder)
    return f"{embedder.name}, {embedder.dimension} dimensions, {embedder.max_tokens} tokens"


def _mongo(config: Configuration) -> str:
    from connectors.mongo import check
    from syncline.assemble import connect_mongo, make_scope

    uri = config.mongo.uri.get_secret_value()
    running = find_running(config.local.data_dir)
    uri = uri or (running["mongo"] if running else "")
    if not uri:
        from syncline.local.mongo import find_program

        return f"local server, not running now ({find_program()})"
    with connect_mongo(uri) as client:
        check(client, make_scope(config))
    return f"change streams of {config.mongo.database} can be read"


def _qdrant(config: Configuration) -> str:
    from models.ids import recipe_fingerprint
    from syncline.assemble import load_embedder, make_chunker, make_recipe, open_index

    if not config.qdrant.url and find_running(config.local.data_dir):
        return "Qdrant Edge, open in the running process"
    embedder = load_embedder(config)
    wanted = make_recipe(embedder, make_chunker(config, embedder))
    index = open_index(config)
    try:
        recipe = index.recipe()
        if config.pulsar.url:
            index.check(recipe or wanted, wanted)
    finally:
        index.store.close()
    if recipe is None:
        return "no index yet; it will be built"
    another = recipe_fingerprint(recipe) != recipe_fingerprint(wanted)
    return f"index of {recipe.model}" + ("; a new one will be built beside it" if another else "")


def _pulsar(config: Configuration) -> str:
    from syncline.capture import find_partitions

    topics = find_partitions(config.pulsar)
    return f"{len(topics)} partitions of {config.pulsar.topic}"
