"""`verify` beside the flow: on request, or by itself every `verify.every_seconds`.

One process of a topology does it: the one that runs the direct flow, the one that owns the local
processes, or the index replica that reads the first partition.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, get_args

from flows.verify_report import Kind, VerifyReport
from models.records import Timestamp
from syncline.control import Control
from syncline.errors import Stopped, SynclineError
from syncline.settings import VerifySettings
from syncline.telemetry import Telemetry
from syncline.verification import PATIENT_SECONDS, Comparable, verify_worker

POLL_SECONDS = 1.0
"""Between two looks at whether it may begin; nothing in a comparison is that urgent."""
RETRY_SECONDS = 60.0
"""After one that failed, at most: an outage is over when it is over, and the flow waits too."""
STOP_SECONDS = 2.0
"""A stop ends it within one page of documents; past this it is left behind, which harms nothing."""


class Flow(Protocol):
    """What is told to stop, and counts."""

    control: Control
    telemetry: Telemetry


class Verifier:
    """Compares, and remembers what the last comparison found. A context: the schedule is kept as
    long as it lasts. Thread-safe.

    `pinned` gives the worker whose index and database are compared, for as long as that takes.
    `ready` is that of `/readyz`: nothing is compared while the flow waits for something.
    `is_mine`: whether no other process does it.
    """

    def __init__(
        self,
        flow: Flow,
        settings: VerifySettings,
        pinned: Callable[[], contextlib.AbstractContextManager[Comparable]],
        *,
        ready: Callable[[], tuple[bool, Any]],
        is_mine: Callable[[], bool] = lambda: True,
        fed_by_others: bool = False,
    ) -> None:
        self._flow = flow
        self._settings = settings
        self._pinned = pinned
        self._ready = ready
        self._is_mine = is_mine
        self._fed_by_others = fed_by_others
        self._last: Mapping[str, Any] | None = None
        self._problem: str | None = None
        self._awaited: Timestamp | None = None
        self._give_up = 0.0
        self._thread = threading.Thread(target=self._run, name="syncline-verify", daemon=True)

    def __enter__(self) -> Verifier:
        if self._settings.every_seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flow.control.request_stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def __call__(self, *, deep: bool, repair: bool, forget: bool = False) -> Mapping[str, Any]:
        """Compare now, as fast as it goes: the report as JSON values. Raises what `verify` does."""
        report = self._compare(deep=deep, repair=repair, forget=forget)
        return report.model_dump(mode="json")

    def facts(self) -> Mapping[str, Any]:
        """`verify` of `/v1/status`: the last comparison that was completed, and why none was since.

        `last` is None before the first one of this process, `problem` if the newest did not fail.
        """
        return {
            "every_seconds": self._settings.every_seconds,
            "last": self._last,
            "problem": self._problem,
        }

    # --- the schedule -------------------------------------------------------------------------

    def _run(self) -> None:
        pause = POLL_SECONDS
        while not self._flow.control.wait_stop(pause):
            pause = self._attempt()

    def _attempt(self) -> float:
        """Compare, if it may be done now. Returns after how many seconds to try again."""
        if not self._is_mine():
            self._forget()
            return POLL_SECONDS
        settings = self._settings
        try:
            if not (self._ready()[0] and self._has_caught_up()):
                return POLL_SECONDS
            self._compare(deep=settings.deep, repair=settings.repair, gently=True)
        except Stopped:
            return 0.0
        except SynclineError:  # told, and tried again: a check must not end what it checks
            return min(settings.every_seconds, RETRY_SECONDS)
        return settings.every_seconds

    def _forget(self) -> None:
        """Another process compares from now on: two that tell different things are of no use."""
        self._last = self._problem = None
        self._flow.telemetry.forget_verified()

    # --- one comparison -----------------------------------------------------------------------

    def _has_caught_up(self) -> bool:
        """Whether the index is less behind than a comparison waits for it; what lags is late, and
        no drift."""
        with self._telling(), self._pinned() as worker:
            watermark = worker.index.watermark()
            if watermark is not None and self._awaited is not None and watermark >= self._awaited:
                self._awaited = None
                return True
            if self._awaited is None or time.monotonic() >= self._give_up:
                self._awaited = worker.reader().cluster_time()
                self._give_up = time.monotonic() + PATIENT_SECONDS
            return False

    def _compare(
        self, *, deep: bool, repair: bool, forget: bool = False, gently: bool = False
    ) -> VerifyReport:
        with self._telling(), self._pinned() as worker:
            report = verify_worker(
                worker,
                deep=deep,
                repair=repair,
                forget=forget,
                gently=gently,
                fed_by_others=self._fed_by_others,
            )
        self._problem = None
        self._last = _summary(report)
        drift = {kind: report.counts.get(kind, 0) for kind in get_args(Kind)}
        self._flow.telemetry.verified(drift, repaired=report.repaired, seconds=report.took_seconds)
        return report

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """A failure is told, and goes on. After a stop it is none: clients are being closed."""
        try:
            yield
        except SynclineError as error:
            if not self._flow.control.stop_requested:
                self._problem = str(error)
                self._flow.telemetry.verify_failed(str(error))
            raise


def _summary(report: VerifyReport) -> Mapping[str, Any]:
    """The report without its examples, which name documents."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, **report.model_dump(mode="json", exclude={"examples"})}
