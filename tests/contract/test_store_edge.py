"""What Qdrant Edge does beyond the contract: its directory, its lock, its crashes."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from connectors.qdrant_edge import EdgeStore
from connectors.store import Conditional, Point, Sparse
from models.conditions import All
from syncline.errors import Misconfigured

ALWAYS = All(conditions=())
AN_ID = "00000000-0000-0000-0000-000000000001"

WRITER = """
import sys, uuid
from pathlib import Path
from connectors.qdrant_edge import EdgeStore
from connectors.store import Conditional, Point
from models.conditions import All

store = EdgeStore(Path(sys.argv[1]))
store.create(8)
n = 0
while True:
    point = Point(str(uuid.UUID(int=n)), {"n": n})
    store.upsert_conditionally([Conditional([point], All(conditions=()))])
    n += 1
    print(n, flush=True)
"""


def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    """Points, vectors, indexes and search are as before once the directory is opened again."""
    path = tmp_path / "deep" / "index"
    store = EdgeStore(path)
    store.create(8)
    store.create_field_index(("a.b", "c"), "keyword")
    dense = np.eye(8, dtype=np.float32)[0]
    store.upsert([Point(AN_ID, {"a.b": {"c": "x"}}, dense, Sparse([1], [2.0]))])
    before = store.query(dense=dense, sparse=Sparse([1], [1.0]), condition=None, limit=1)
    store.close()

    again = EdgeStore(path)
    assert again.exists()
    assert not again.create(8)
    assert again.field_indexes() == {("a.b", "c"): "keyword"}
    after = again.query(dense=dense, sparse=Sparse([1], [1.0]), condition=None, limit=1)
    assert after == before
    assert after[0].id == AN_ID
    again.close()


def test_another_dimension_is_refused_after_a_restart(tmp_path: Path) -> None:
    """The dimension is what is on disk, not what this process made."""
    store = EdgeStore(tmp_path)
    store.create(8)
    store.close()
    again = EdgeStore(tmp_path)
    with pytest.raises(Misconfigured, match=r"8 dimensions.* 384(?s:.*)remedy"):
        again.create(384)
    again.close()


def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    """Killed between any two writes, and once more: every acknowledged point is there."""
    acknowledged = 0
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(300)]
            writer.kill()
            lines += writer.stdout.read().split("\n")
        acknowledged = max(acknowledged, *(int(line) for line in lines if line.strip()))
        store = EdgeStore(tmp_path)
        assert acknowledged <= store.count(ALWAYS) <= acknowledged + 1
        store.close()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """A second process is told what holds the directory and what to do; the first goes on."""
    store = EdgeStore(tmp_path)
    store.create(8)
    program = (
        "import sys; from pathlib import Path; from connectors.qdrant_edge import EdgeStore\n"
        "EdgeStore(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"Misconfigured: {tmp_path} is in use by another process" in second.stderr
    assert "remedy: stop the other" in second.stderr
    store.upsert([Point(AN_ID, {})])
    assert store.count(ALWAYS) == 1
    store.close()


@pytest.mark.parametrize("damaged", ["edge_config.json", "segment.json", "payload_storage"])
def test_a_damaged_directory_is_refused(tmp_path: Path, damaged: str) -> None:
    """Truncated files are an error that names the directory and the remedy, not a panic."""
    store = EdgeStore(tmp_path)
    store.create(8)
    store.upsert([Point(AN_ID, {"a": 1})])
    store.close()
    for path in tmp_path.rglob(f"{damaged}*"):
        for file in [path] if path.is_file() else path.rglob("*.json"):
            file.write_text("{")
    with pytest.raises(Misconfigured, match=r"cannot be used(?s:.*)rebuilt from the database"):
        EdgeStore(tmp_path).create(8)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """A file where the directory should be is named, with the remedy."""
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(Misconfigured, match=str(path)):
        EdgeStore(path).create(8)


def test_closing_is_final_and_may_be_repeated(tmp_path: Path) -> None:
    """After close nothing is read or written, and the directory is free."""
    store = EdgeStore(tmp_path)
    store.create(8)
    store.close()
    store.close()
    with pytest.raises(Misconfigured, match="no open index"):
        store.upsert_conditionally([Conditional([Point(AN_ID, {})], ALWAYS)])
    EdgeStore(tmp_path).close()


def test_several_may_create_it_at_once(tmp_path: Path) -> None:
    """Of threads that create the index at the same time one does, and all can use it."""
    store, start = EdgeStore(tmp_path / "index"), threading.Barrier(4)

    def create(_: int) -> bool:
        start.wait()
        made = store.create(8)
        assert store.exists() and store.count(ALWAYS) == 0
        return made

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(create, range(4))) == [False, False, False, True]
    store.close()


def test_a_creation_that_was_cut_short_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half made is never taken for an index."""

    def cut_short(made: Path, target: Path) -> None:
        for path in made.rglob("*.json"):
            path.write_text("{")
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_short)
        with pytest.raises(Misconfigured, match="killed"):
            EdgeStore(tmp_path / "index").create(8)
    store = EdgeStore(tmp_path / "index")
    assert store.create(8) and store.count(ALWAYS) == 0
    store.close()
