"""Cleaning and chunking of one stream in several processes, where that is worth the trip.

Each process has a thread here that hands it one document after the other, as bytes: as many are
on their way as there are processes, and a batch keeps its order. A document at which its process
dies is `Failed`, and the process is replaced; it keeps no state that could be lost.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import TypeGuard

import structlog

from flows.parallel_process import Died, PreparingProcess
from flows.parallel_worker import NOT_WRITABLE, decode_result, encode_revision, encode_start
from flows.steps import prepare
from models.records import Failed, Failure, Item, Revision
from syncline.control import Control
from syncline.errors import Stopped
from transforms.chunk import Chunker

_log = structlog.get_logger(__name__)

IN_PLACE_CHARS = 4_000
"""Measured: cleaning and chunking take 0.2 ms for 1,000 characters, the trip about 0.5 ms."""
STOP_SECONDS = 3.0
"""How long the documents in work may take to end once a stop is asked for."""
_POLL_SECONDS = 0.1

_Prepared = Revision | Failed


class ParallelPreparation:
    """`clean_and_chunk` by `processes` processes beside this one, which start when first needed.

    The results are those of `Steps.clean_and_chunk` with `chunker`, whose tokenizer and limit are
    given once more in a form that can travel (see `models.tokenizing.portable_text`). To be called
    by one thread at a time, and closed at the end; if this process is killed, the others end too.
    """

    def __init__(
        self, chunker: Chunker, tokenizer: str, max_tokens: int, *, processes: int, control: Control
    ) -> None:
        """Raises ValueError unless there is a process."""
        if processes < 1:
            raise ValueError(f"{processes} processes")
        self._chunker = chunker
        self._control = control
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        start = encode_start(tokenizer, max_tokens)
        self._lanes = [_Lane(self._tasks, start, chunker, control) for _ in range(processes)]
        self._begun = self._closed = False
        self._patience_ends: float | None = None

    def clean_and_chunk(self, batch: list[Item]) -> list[Item]:
        """The batch, in order: with chunks or failures for what was to be prepared.

        Raises `Stopped` if a stop is asked for and the documents in work take too long, and
        `Misconfigured` if the processes do not start.
        """
        handed_out = [self._hand_out(item) if _is_worth_it(item) else item for item in batch]
        # The small ones meanwhile.
        here = [
            prepare(each, self._chunker) if isinstance(each, Revision) and not each.skip else each
            for each in handed_out
        ]
        return [self._wait(each) if isinstance(each, Future) else each for each in here]

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run now."""
        return [pid for lane in self._lanes if (pid := lane.pid) is not None]

    def close(self) -> None:
        """End the processes, whatever they are doing. Again: nothing."""
        self._closed = True
        for _ in self._lanes:
            self._tasks.put(None)
        for lane in self._lanes:
            lane.close()

    def _hand_out(self, revision: Revision) -> Future[_Prepared]:
        if self._closed:
            raise Stopped("cleaning and chunking is over")
        if not self._begun:
            self._begun = True
            for lane in self._lanes:
                lane.begin()
        future: Future[_Prepared] = Future()
        self._tasks.put((future, revision))
        return future

    def _wait(self, future: Future[_Prepared]) -> _Prepared:
        while True:
            try:
                return future.result(_POLL_SECONDS)
            except TimeoutError:
                if self._control.stop_requested and self._is_patience_over():
                    self.close()
                    raise Stopped("a stop was asked for while cleaning and chunking") from None

    def _is_patience_over(self) -> bool:
        now = time.monotonic()
        if self._patience_ends is None:
            self._patience_ends = now + STOP_SECONDS
        return now >= self._patience_ends


def _is_worth_it(item: Item) -> TypeGuard[Revision]:
    if not isinstance(item, Revision) or item.skip:
        return False
    return sum(len(part.content) for part in item.document.parts) > IN_PLACE_CHARS


_Task = tuple[Future[_Prepared], Revision]


class _Lane:
    """A thread and the process that it hands documents to."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[_Task | None],
        start: bytes,
        chunker: Chunker,
        control: Control,
    ) -> None:
        self._tasks = tasks
        self._start = start
        self._chunker = chunker
        self._control = control
        self._lock = threading.Lock()
        self._process: PreparingProcess | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)

    @property
    def pid(self) -> int | None:
        with self._lock:
            return None if self._process is None else self._process.pid

    def begin(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, revision = task
            try:
                future.set_result(self._prepare(revision))
            except BaseException as error:  # raised where the result is waited for
                self._replace()
                future.set_exception(error)
        self._replace()

    def _prepare(self, revision: Revision) -> _Prepared:
        try:
            request = encode_revision(revision)
        except NOT_WRITABLE:
            return prepare(revision, self._chunker)
        try:
            return decode_result(revision, self._running().ask(request))
        except Died as death:
            self._replace()
            if self._closed or self._control.stop_requested:
                raise Stopped("a process ended while a stop was asked for") from death
            _log.warning("preparing_process_died", reason=str(death), document=revision.key.id)
            failure = Failure(step="clean", reason=f"the process that cleaned it {death}")
            return Failed(key=revision.key, version=revision.version, failure=failure)

    def _running(self) -> PreparingProcess:
        with self._lock:
            if self._closed:
                raise Stopped("cleaning and chunking is over")
            if self._process is None:
                self._process = PreparingProcess(self._start, self._chunker.fingerprint)
            return self._process

    def _replace(self) -> None:
        """End the process; the next document gets a new one."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end()
