"""`syncline reindex` wherever the index is: through the running process, or done here.

Qdrant Edge opens in one process only, so the process that runs on the data directory does it, and
goes on whoever watches. Without one, this process runs the flows until the alias has moved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from connectors.index import Index
from syncline.assemble import open_alias
from syncline.client import connect
from syncline.errors import Misconfigured, SynclineError
from syncline.indexes import Indexes
from syncline.lifecycle import mongo_of, stop_flow
from syncline.progress import on_stderr
from syncline.running_index import tell_making
from syncline.runtime import claim, find_running
from syncline.settings import Configuration

POLL_SECONDS = 0.25
"""Between two looks at how far it is."""

Status = Callable[[], Mapping[str, Any]]


def reindex_anywhere(config: Configuration, *, url: str | None) -> Mapping[str, Any]:
    """Build what the settings ask for and wait until it serves; the status then.

    Nothing is done if what serves is as it should be. Raises `SynclineError` if it was not built,
    and passes KeyboardInterrupt: a running process then goes on.
    """
    if _is_running(config, url):
        with connect(config, url) as client:
            return _follow(client.reindex(abandon=False), client.status)
    with _running_here(config) as status:
        return _follow(status(), status)


def abandon_anywhere(config: Configuration, *, url: str | None) -> Mapping[str, Any]:
    """Stop what is being built and remove it; the status then."""
    if _is_running(config, url):
        with connect(config, url) as client:
            return client.reindex(abandon=True)
    with _stored(config) as (alias, facts):
        for index in facts["unfinished"]:
            alias.remove(index["collection"])
        return {**facts, "unfinished": []}


def status_anywhere(config: Configuration, *, url: str | None) -> Mapping[str, Any]:
    """Which index serves, and which others there are."""
    if _is_running(config, url):
        with connect(config, url) as client:
            return client.status()
    with _stored(config) as (_, facts):
        return facts


def _is_running(config: Configuration, url: str | None) -> bool:
    return bool(url or find_running(config.local.data_dir))


def _follow(first: Mapping[str, Any], status: Status) -> Mapping[str, Any]:
    """Show how far what is being built has come, until it is no longer being built."""
    building = first["building"]
    if building is None:
        return first
    name, done = building["collection"], 0
    title = f"building {name}"
    with on_stderr(title, _documents(first), "documents") as advance:
        while (facts := status())["building"] and facts["building"]["collection"] == name:
            if error := facts["building"]["error"]:
                raise SynclineError(f"the new index could not be built: {error}")
            now = _documents(facts["building"])
            advance(max(0, now - done))
            done = max(now, done)
            time.sleep(POLL_SECONDS)
    if facts["serving"]["collection"] != name:
        raise SynclineError(f"the index {name} was abandoned before it was built")
    return facts


def _documents(held: Mapping[str, Any]) -> int:
    documents: Mapping[str, int] = held["documents"]
    return documents["indexed"] + documents["failed"]


@contextlib.contextmanager
def _running_here(config: Configuration) -> Iterator[Status]:
    """The flows in this process, and their status once there is an index that serves."""
    with contextlib.ExitStack() as stack:
        if not (config.mongo.uri.get_secret_value() and config.qdrant.url):
            stack.enter_context(claim(config.local.data_dir))
        uri = stack.enter_context(mongo_of(config))
        indexes = Indexes(config, uri, open_alias(config))
        indexes.start()
        stack.callback(stop_flow, indexes)

        def status() -> Mapping[str, Any]:
            if indexes.control.error is not None:
                raise indexes.control.error
            return indexes.status()

        while status()["serving"] is None:
            time.sleep(POLL_SECONDS)
        yield status


@contextlib.contextmanager
def _stored(config: Configuration) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The alias, and what is stored behind it, while no process of this data directory runs."""
    with contextlib.ExitStack() as stack:
        if not config.qdrant.url:
            stack.enter_context(claim(config.local.data_dir))
        alias = open_alias(config)
        stack.callback(alias.close)
        target = alias.target()
        if target is None:
            raise Misconfigured(
                f"there is no index {alias.name!r}",
                "name the right --data-dir or qdrant.collection, or build it: `syncline up`",
                code="index_missing",
            )
        found: dict[str, list[Any]] = {"serving": [], "unfinished": [], "retired": []}
        for name in {target, *alias.collections()}:
            store = alias.open(name)
            index = Index(store)
            recipe, since = index.recipe(), index.retired()
            store.close()
            kind = "serving" if name == target else "retired" if since else "unfinished"
            if recipe is not None:
                found[kind].append(tell_making(name, recipe))
        yield alias, {**found, "serving": next(iter(found["serving"]), None)}
