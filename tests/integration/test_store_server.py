"""A store that several processes share: at once, through restarts, and past dying clients."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from connectors.memory import MemoryStore
from connectors.qdrant_edge import EdgeStore
from connectors.store import Point
from connectors.store_client import RemoteStore
from connectors.store_server import MAX_PATH_BYTES, StoreServer
from connectors.store_wire import encode_call
from models.conditions import All, Match
from syncline.control import Control
from syncline.errors import Misconfigured, Unavailable
from syncline.retry import keep_trying

ALWAYS = All(conditions=())
SECONDS = 10.0

WRITER = """
import sys, uuid
from pathlib import Path
import numpy as np
from connectors.store import Conditional, Point
from connectors.store_client import RemoteStore
from models.conditions import Range

store, me, rounds = RemoteStore(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for n in range(rounds):
    mine = [Point(str(uuid.UUID(int=me * 10**6 + n * 10 + k)), {"by": me}, np.ones(8, np.float32))
            for k in range(10)]
    store.upsert(mine)
    newest = Point(str(uuid.UUID(int=0)), {"n": n * 10 + me})
    older = Range(path=("n",), lte=n * 10 + me)
    store.upsert_conditionally([Conditional([newest], older)])
print("done", flush=True)
"""


def an_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def serving() -> int:
    """How many clients are being served in this process."""
    return sum(thread.name == "store-client" for thread in threading.enumerate())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "store"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeStore]:
    store = EdgeStore(tmp_path / "index")
    store.create(8)
    yield store
    store.close()


@pytest.fixture
def memory() -> MemoryStore:
    store = MemoryStore()
    store.create(8)
    return store


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., StoreServer]]:
    """Starts servers on `path`, which are stopped afterwards."""
    servers: list[StoreServer] = []

    def run(store: EdgeStore | MemoryStore) -> StoreServer:
        servers.append(StoreServer(store, path))
        servers[-1].start()
        return servers[-1]

    yield run
    for server in servers:
        server.stop()
    assert serving() == 0


@pytest.fixture
def client(path: Path) -> Iterator[RemoteStore]:
    store = RemoteStore(path)
    yield store
    store.close()


def writer(path: Path, me: int, rounds: int) -> subprocess.Popen[str]:
    """A process that waits for a line and writes then."""
    command = [sys.executable, "-c", WRITER, str(path), str(me), str(rounds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_several_processes_write_at_once(
    edge: EdgeStore, path: Path, start: Callable[..., StoreServer]
) -> None:
    """Three processes race: all their points are there, and the newest guarded write is left."""
    start(edge)
    processes = [writer(path, me, 60) for me in (1, 2, 3)]
    for process in processes:
        go(process)
    for process in processes:
        assert process.communicate(timeout=60)[0] == "done\n"
    counts = [edge.count(Match(path=("by",), values=(me,))) for me in (1, 2, 3)]
    assert counts == [600, 600, 600]
    assert edge.retrieve([an_id(0)])[0].payload == {"n": 593}
    until(lambda: serving() == 0, "a client that has ended is still being served")


def test_a_client_that_is_killed_harms_nobody(
    edge: EdgeStore, path: Path, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """kill -9 between or within its calls: its server thread ends, the others go on."""
    start(edge)
    victim, other = writer(path, 1, 10**6), writer(path, 2, 60)
    go(victim)
    go(other)
    until(lambda: client.count(Match(path=("by",), values=(1,))) > 50, "it does not write")
    victim.send_signal(signal.SIGKILL)
    assert other.communicate(timeout=60)[0] == "done\n"
    victim.communicate()
    client.close()
    until(lambda: serving() == 0, "the dead client is still being served")
    assert edge.count(Match(path=("by",), values=(2,))) == 600


@pytest.mark.parametrize("bytes_sent", [1, 7, 8, 40])
def test_half_a_call_is_none(
    memory: MemoryStore,
    path: Path,
    start: Callable[..., StoreServer],
    client: RemoteStore,
    bytes_sent: int,
) -> None:
    """A connection that ends within a message changes nothing, wherever it was cut."""
    start(memory)
    call = encode_call("upsert", {"points": [Point(an_id(1), {})]})
    with socket.socket(socket.AF_UNIX) as dying:
        dying.connect(str(path))
        dying.sendall(call[:bytes_sent])
    assert client.count(ALWAYS) == 0
    until(lambda: serving() == 1, "it is still being served")


def test_noise_ends_its_own_connection_only(
    memory: MemoryStore, path: Path, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """A stranger who announces too much is cut off, one who asks the unknown is told."""
    start(memory)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(SECONDS)
        stranger.connect(str(path))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as newer:
        newer.settimeout(SECONDS)
        newer.connect(str(path))
        newer.sendall(encode_call("count", {"condition": ALWAYS}).replace(b"count", b"exact"))
        assert b"same version" in newer.recv(1000)
    assert client.exists()


def test_a_restart_of_the_owner(
    edge: EdgeStore, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """Away: `Unavailable`, each time. Back: at most one more, then all is as it was."""
    with pytest.raises(Unavailable, match="owner"):
        client.exists()
    server = start(edge)
    client.upsert([Point(an_id(1), {"a": 1})])
    server.stop()
    for _ in range(3):
        with pytest.raises(Unavailable):
            client.count(ALWAYS)
    start(edge)
    assert client.count(ALWAYS) == 1


def test_waiting_for_the_owner(
    memory: MemoryStore, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """The callers' one retry policy waits for it, visibly, and goes on when it is back."""
    control, counts = Control(), []
    waiting = threading.Thread(
        target=lambda: counts.append(keep_trying(lambda: client.count(ALWAYS), control))
    )
    waiting.start()
    until(lambda: "index" in control.waiting, "nobody sees that it waits")
    start(memory)
    waiting.join(SECONDS)
    assert counts == [0]
    assert control.waiting == {}


def test_an_owner_that_does_not_answer_is_given_up(path: Path) -> None:
    """A stopped process keeps its socket open: the call ends after its time."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(path))
        stopped.listen()
        store = RemoteStore(path, timeout_seconds=0.05)
        with pytest.raises(Unavailable, match="timed out"):
            store.exists()
        store.close()


def test_what_the_store_raises_crosses(
    memory: MemoryStore, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """Its own errors as they are; one that nobody foresaw ends the call, with its text."""
    start(memory)
    memory.refuse(1)
    with pytest.raises(Unavailable, match="memory store is unavailable: told to refuse"):
        client.count(ALWAYS)
    with pytest.raises(Misconfigured, match="9"):
        client.create(9)

    def broken(operation: str) -> None:
        raise ZeroDivisionError(operation)

    memory.before_write = broken
    with pytest.raises(Misconfigured, match="ZeroDivisionError: upsert"):
        client.upsert([Point(an_id(1), {})])
    assert client.exists()


def test_a_stop_answers_what_is_in_work(
    memory: MemoryStore, path: Path, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """A write that is in work when the owner stops is done and acknowledged, and no later one."""
    server = start(memory)
    begun, proceed = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        begun.set()
        assert proceed.wait(SECONDS)

    memory.before_write = slow
    done: list[bool] = []

    def write() -> None:
        client.upsert([Point(an_id(1), {"a": 1})])
        done.append(True)

    writing = threading.Thread(target=write)
    writing.start()
    assert begun.wait(SECONDS)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: not path.exists(), "it does not stop")
    assert not done
    proceed.set()
    for thread in (writing, stopping):
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert done
    assert memory.count(ALWAYS) == 1
    with pytest.raises(Unavailable):
        client.exists()


def test_a_large_answer_crosses_beside_small_ones(
    memory: MemoryStore, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """Threads of one client have a connection each: 20 MB for one, small ones for the others."""
    start(memory)
    client.upsert([Point(an_id(1), {"text": "x" * 20_000_000}, np.ones(8, np.float32))])
    client.upsert([Point(an_id(n), {"n": n}) for n in range(2, 50)])
    wrong: list[object] = []

    def read(number: int) -> None:
        for _ in range(20):
            [found] = client.retrieve([an_id(number)])
            if found.payload != {"n": number}:
                wrong.append(found)

    threads = [threading.Thread(target=read, args=(n,)) for n in (2, 3, 4)]
    for thread in threads:
        thread.start()
    [large] = client.retrieve([an_id(1)], dense=True)
    for thread in threads:
        thread.join(SECONDS)
    assert len(large.payload["text"]) == 20_000_000
    assert large.dense is not None
    assert wrong == []


def test_only_its_user_may_open_the_socket(
    memory: MemoryStore, path: Path, start: Callable[..., StoreServer]
) -> None:
    """The file is 0600 in a directory 0700, and gone after the stop."""
    server = start(memory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    server.stop()
    server.stop()
    assert not path.exists()


def test_a_directory_that_others_may_enter_is_refused(memory: MemoryStore, path: Path) -> None:
    """A directory that is there is never opened or closed to others by us."""
    path.parent.mkdir(mode=0o755)
    with pytest.raises(Misconfigured, match=f"chmod 700 {path.parent}"):
        StoreServer(memory, path).start()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_a_socket_that_a_killed_owner_left_is_replaced(
    memory: MemoryStore, path: Path, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """The next owner starts as if the file were not there."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(Unavailable):
        client.exists()
    start(memory)
    assert client.exists()


def test_a_path_in_use_is_refused(
    memory: MemoryStore, path: Path, start: Callable[..., StoreServer], client: RemoteStore
) -> None:
    """Neither a served socket nor a file that is none is taken away."""
    start(memory)
    with pytest.raises(Misconfigured, match="served by another process"):
        StoreServer(memory, path).start()
    assert client.exists()
    plain = path.with_name("plain")
    plain.write_text("mine")
    with pytest.raises(Misconfigured, match="no socket"):
        StoreServer(memory, plain).start()
    assert plain.read_text() == "mine"


def test_a_path_that_is_too_long_is_refused(memory: MemoryStore, tmp_path: Path) -> None:
    """Both sides name the limit and the setting; a path at the limit works."""
    fitting = tmp_path / "s" / ("x" * (MAX_PATH_BYTES - len(str(tmp_path)) - 3))
    server, client = StoreServer(memory, fitting), RemoteStore(fitting)
    server.start()
    assert client.exists()
    client.close()
    server.stop()
    long = fitting.with_name(fitting.name + "x")
    for attempt in (lambda: StoreServer(memory, long).start(), lambda: RemoteStore(long)):
        with pytest.raises(Misconfigured, match=r"at most 103(?s:.*)local.data_dir"):
            attempt()
