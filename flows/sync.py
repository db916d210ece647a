"""The direct dataflow: MongoDB -> map -> skip_unchanged -> clean -> chunk -> apply.

Bytewax runs without recovery: the position lives in the index and the source writes it, because
Bytewax lets a source emit into an epoch only when all of the epoch before has been written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import bytewax.operators as op
from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from flows.apply import Applier
from flows.steps import Steps
from models.records import Change, Item
from syncline.control import Control
from syncline.errors import Stopped

_In = TypeVar("_In")
_Out = TypeVar("_Out")


Preparation = Callable[[list[Item]], list[Item]]
"""Cleans and chunks a batch elsewhere, in one step (see `flows.parallel`)."""


def build_flow(
    source: Source[Change],
    steps: Steps,
    applier: Applier,
    control: Control,
    *,
    preparation: Preparation | None = None,
) -> Dataflow:
    """The graph. Nothing is opened before it runs."""
    flow = Dataflow("sync")
    changes = op.input("mongo", flow, source)
    mapped = op.flat_map_batch("map", changes, contained(steps.map, control))
    add_steps(mapped, steps, applier, control, preparation)
    return flow


def add_steps(
    mapped: Stream[Item],
    steps: Steps,
    applier: Applier,
    control: Control,
    preparation: Preparation | None,
) -> None:
    """What follows the mapping, in every flow that ends in an index."""
    marked = op.flat_map_batch("skip_unchanged", mapped, contained(steps.skip_unchanged, control))
    if preparation is None:
        cleaned = op.flat_map_batch("clean", marked, contained(steps.clean, control))
        chunked = op.flat_map_batch("chunk", cleaned, contained(steps.chunk, control))
    else:
        chunked = op.flat_map_batch("clean_and_chunk", marked, contained(preparation, control))
    op.output("apply", chunked, ApplySink(applier, control))


def run_flow(flow: Dataflow, *, epoch_milliseconds: int) -> None:
    """Run a flow in this thread until its source ends."""
    cluster_main(  # type: ignore[no-untyped-call]
        flow, [], 0, epoch_interval=timedelta(milliseconds=epoch_milliseconds)
    )


class ApplySink(DynamicSink[Item]):
    """Hands each batch to the apply step. One worker; a batch may come again after a restart."""

    def __init__(self, applier: Applier, control: Control) -> None:
        self._write = contained(applier.apply, control)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _ApplyPartition:
        """One partition a worker; the direct flow has one worker."""
        return _ApplyPartition(self._write)


class _ApplyPartition(StatelessSinkPartition[Item]):
    def __init__(self, write: Callable[[list[Item]], Any]) -> None:
        self._write = write

    def write_batch(self, items: list[Item]) -> None:
        self._write(items)


def contained(step: Callable[[list[_In]], Any], control: Control) -> Callable[[list[_In]], Any]:
    """`step`, with its errors handed to `control` instead of to the engine, which would panic.

    After an error nothing is done any more and nothing is acknowledged; the flow ends through its
    source, and the entry point raises the error.
    """

    def run(batch: list[_In]) -> Any:
        if control.aborted:
            return []
        try:
            return step(batch)
        except Stopped:
            control.abort()
        except BaseException as error:
            control.abort()
            control.fail(error)
        return []

    return run
