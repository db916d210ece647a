"""One index and the flow that keeps it in line."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from connectors.index import Index
from models.records import Recipe
from syncline.assemble import NOTHING_HELD
from syncline.errors import SynclineError
from syncline.making import Making
from syncline.telemetry import Telemetry
from syncline.worker import Worker
from transforms.chunk import max_tokens_of


class RunningIndex:
    """An index in the collection `name`, and its flow, not started yet."""

    def __init__(
        self, name: str, making: Making, index: Index, uri: str, telemetry: Telemetry
    ) -> None:
        self.name = name
        self.making = making
        self.index = index
        self.unused = threading.Event()
        """Set once no request is answered from it and none will be."""
        config, embedder = making.config, making.embedder
        self._make_worker = partial(Worker, config, uri, index, embedder, telemetry=telemetry)
        self.worker = self._make_worker()

    def start_again(self) -> None:
        """Run the flow once more, after a stop."""
        self.worker = self._make_worker()
        self.worker.start()

    def stop(self) -> None:
        """Let the flow write and acknowledge what it has read, and wait for it."""
        self.worker.control.request_stop()
        while not self.worker.join(1.0):
            pass

    @property
    def error(self) -> BaseException | None:
        """Why the flow ended; None while it runs or was asked to end."""
        control = self.worker.control
        if control.error is None and not self.worker.alive and not control.stop_requested:
            return SynclineError("the flow ended by itself, which is a defect; its log says more")
        return control.error

    def check(self) -> None:
        """Raises what ended the flow, if it was no stop."""
        if (error := self.error) is not None:
            raise error


def tell_making(name: str, recipe: Recipe) -> dict[str, Any]:
    """Which index it is, and what it is made of."""
    tokens = max_tokens_of(recipe.chunker)
    return {"collection": name, "model": recipe.model, "chunk_tokens": tokens}


def tell_building(
    name: str, making: Making, building: RunningIndex | None, failure: BaseException | None
) -> Mapping[str, Any]:
    """How far the index is that is being built, begun or not."""
    held = building.worker.status() if building else {**NOTHING_HELD, "state": "starting"}
    kept = ("state", "documents", "chunks", "watermark", "backfill")
    return {
        **tell_making(name, making.recipe),
        **{key: held.get(key, {}) for key in kept},
        "state": "failed" if failure else held["state"],
        "error": str(failure) if failure else None,
    }
