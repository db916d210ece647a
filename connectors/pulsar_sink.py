"""The Bytewax sink of the capture flow."""

from __future__ import annotations

from collections.abc import Callable

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from models.records import Change


class PulsarSink(DynamicSink[Change]):
    """Hands each batch to `publish`, which returns when the broker has confirmed it.

    One worker; at least once: a batch may come again after a restart. It blocks while the broker
    is away, which is the back-pressure on the source.
    """

    def __init__(self, publish: Callable[[list[Change]], object]) -> None:
        self._publish = publish

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Partition:
        """One partition a worker; the capture flow has one worker."""
        return _Partition(self._publish)


class _Partition(StatelessSinkPartition[Change]):
    def __init__(self, publish: Callable[[list[Change]], object]) -> None:
        self._publish = publish

    def write_batch(self, items: list[Change]) -> None:
        self._publish(items)
