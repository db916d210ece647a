"""What `syncline load` connects: the files or the sample, the database, a progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import InvalidName

from connectors.mongo import cluster_time, connect
from syncline.assemble import make_scope
from syncline.errors import Misconfigured
from syncline.load import LoadReport, load, load_documents
from syncline.progress import on_stderr
from syncline.runtime import find_running
from syncline.sample import sample_documents
from syncline.settings import Configuration


def load_files(config: Configuration, paths: Sequence[Path], collection: str) -> LoadReport:
    """Files and directories into one collection of the configured database."""
    with _database(config) as database:
        try:
            target = database[collection]
        except InvalidName as error:
            raise Misconfigured(f"--collection {collection!r}: {error}", "name another") from error
        return load(paths, target, progress=on_stderr)


def load_sample(config: Configuration) -> list[LoadReport]:
    """The sample documents into their collections."""
    with _database(config) as database:
        return [
            load_documents([d for _, d in rows], database[name], progress=on_stderr)
            for name, rows in groupby(sample_documents(), key=lambda row: row[0])
        ]


@contextlib.contextmanager
def _database(config: Configuration) -> Iterator[Database[Any]]:
    running = find_running(config.local.data_dir)
    local = f"mongodb://127.0.0.1:{config.local.mongo_port}"
    uri = config.mongo.uri.get_secret_value() or (running and running["mongo"]) or local
    with connect(uri, app_name="syncline-load") as client:
        cluster_time(client, make_scope(config))  # unreachable is said before a bar is drawn
        yield client[config.mongo.database]
