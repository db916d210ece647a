"""One process that cleans and chunks for `flows.parallel`, seen from the flow."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import bson
from bson.errors import InvalidBSON

from syncline.errors import Misconfigured

_COMMAND = (sys.executable, "-m", "flows.parallel_worker")


class Died(Exception):
    """The process is gone; its text says how it ended."""


class PreparingProcess:
    """A running `flows.parallel_worker`, of one thread at a time; `kill` may come from any.

    Raises `Misconfigured` if it cannot be started.
    """

    def __init__(self, start: bytes, fingerprint: str) -> None:
        """`fingerprint`: of the chunker that its own must equal."""
        self._start: bytes | None = start
        self._fingerprint = fingerprint
        try:
            # A session of its own: Ctrl-C in the terminal is for the flow, which ends it in order.
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": _import_path()},
                start_new_session=True,
            )
        except OSError as error:
            raise _not_started(str(error)) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._stream = self._process.stdout
        self._answers = bson.decode_file_iter(self._stream)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, request: bytes) -> Mapping[str, Any]:
        """The answer to one message. Raises `Died`, and `Misconfigured` if it never was ready."""
        if self._start is not None:
            self._begin(self._start)
            self._start = None
        return self._exchange(request)

    def kill(self) -> None:
        """End it now; who waits for its answer gets `Died`."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._stream):
            with contextlib.suppress(OSError):  # what it has not read is flushed into nothing
                stream.close()

    def _begin(self, start: bytes) -> None:
        try:
            ready = self._exchange(start)
        except Died as death:
            raise _not_started(f"it {death}") from death
        if ready["fingerprint"] != self._fingerprint:
            raise _not_started(f"it chunks by {ready['fingerprint']}, not {self._fingerprint}")

    def _exchange(self, message: bytes) -> Mapping[str, Any]:
        try:
            self._requests.write(message)
            self._requests.flush()
            return next(self._answers)
        except (OSError, StopIteration, InvalidBSON) as error:
            raise Died(_ending(self._ended())) from error

    def _ended(self) -> int:
        """Its exit status, negative for a signal. Who closes its output is ending."""
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _import_path() -> str:
    """Where this process finds its modules, the other one does too."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by signal {-status}"


def _not_started(reason: str) -> Misconfigured:
    return Misconfigured(
        f"flow.processes: a process for cleaning and chunking does not start: {reason}",
        "see its own message above; or set flow.processes to 0",
        code="local_part_failed",
    )
