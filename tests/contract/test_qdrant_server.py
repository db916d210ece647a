"""What goes to a Qdrant server, and what its answers become: real HTTP and gRPC, no Qdrant."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as qdrant

from connectors.qdrant import QdrantStore, connect
from connectors.qdrant_requests import batches, to_filter, to_query, to_upserts
from connectors.store import Conditional, Point, Sparse
from models.conditions import All, Either, Match, Not, Range
from syncline.errors import Misconfigured, SynclineError, Unavailable

ALWAYS = All(conditions=())
AN_ID = "00000000-0000-0000-0000-000000000001"
KEY = "a-secret-key"


class Answering(ThreadingHTTPServer):
    """An HTTP server that gives every request the same answer and keeps what it was sent."""

    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
    requests: list[tuple[str, str, Any]]


class Answer(BaseHTTPRequestHandler):
    server: Answering

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, json.loads(body or "null")))
        status, headers, content = self.server.answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = _reply  # noqa: N815 - names that http.server calls

    def log_message(self, *args: object) -> None:
        """Nothing: a test's output is its own."""


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), Answer) as answering:
        answering.requests = []
        thread = threading.Thread(target=answering.serve_forever, args=(0.01,))
        thread.start()
        yield answering
        answering.shutdown()
        thread.join()


@pytest.fixture
def store(server: Answering) -> Iterator[QdrantStore]:
    connected = connect(f"http://127.0.0.1:{server.server_port}", collection="docs")
    yield connected
    connected.close()


# --- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, Misconfigured, "embedding model"),
        (401, Misconfigured, "qdrant.api_key"),
        (403, Misconfigured, "qdrant.api_key"),
        (404, Misconfigured, "'docs'"),
        (413, Misconfigured, "max_request_size_mb"),
        (409, Unavailable, "409"),
        (429, Unavailable, "429"),
        (500, Unavailable, "500"),
        (503, Unavailable, "503"),
    ],
)
def test_a_status_becomes_one_of_two_errors(
    server: Answering, store: QdrantStore, status: int, error: type[SynclineError], words: str
) -> None:
    """What may pass is waited for, what may not is for a person; the cause is chained."""
    server.answer = (status, {}, b'{"status": {"error": "why"}}')
    for attempt in (lambda: store.upsert([Point(AN_ID, {})]), lambda: store.count(ALWAYS)):
        with pytest.raises(error, match=words) as raised:
            attempt()
        assert raised.value.__cause__ is not None


def test_a_request_to_wait_is_unavailable(server: Answering, store: QdrantStore) -> None:
    """429 with Retry-After, which the client raises as a class of its own."""
    server.answer = (429, {"Retry-After": "3"}, b"{}")
    with pytest.raises(Unavailable):
        store.count(ALWAYS)


def test_an_answer_that_is_no_qdrant_is_misconfigured(
    server: Answering, store: QdrantStore
) -> None:
    """A web server at the wrong URL."""
    server.answer = (200, {}, b'{"hello": 1}')
    with pytest.raises(Misconfigured, match=r"qdrant\.url"):
        store.count(ALWAYS)


@pytest.mark.parametrize("status", ["acknowledged", "wait_timeout"])
def test_a_write_that_is_only_queued_is_no_success(
    server: Answering, store: QdrantStore, status: str
) -> None:
    """An accepted write that nobody can read yet is not acknowledged."""
    result = {"result": {"operation_id": 1, "status": status}, "status": "ok", "time": 0.1}
    server.answer = (200, {}, json.dumps(result).encode())
    with pytest.raises(Unavailable, match=status):
        store.upsert([Point(AN_ID, {})])


@pytest.mark.parametrize("over_grpc", [False, True])
def test_a_refused_connection_is_unavailable(over_grpc: bool) -> None:
    """Nobody listens: wait, whichever protocol."""
    store = QdrantStore(
        QdrantClient(
            url="http://127.0.0.1:9",
            grpc_port=9,
            prefer_grpc=over_grpc,
            check_compatibility=False,
        ),
        "docs",
    )
    with pytest.raises(Unavailable):
        store.retrieve([AN_ID])
    store.close()


@pytest.mark.parametrize("url", ["localhost:6333", "ftp://host", "http://", ""])
def test_what_is_no_url_is_misconfigured(url: str) -> None:
    """Told before anything is sent."""
    with pytest.raises(Misconfigured, match=r"qdrant\.url"):
        connect(url, collection="docs")


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_no_error_tells_the_key(server: Answering) -> None:
    """The API key is in no message."""
    store = connect(f"http://127.0.0.1:{server.server_port}", collection="docs", api_key=KEY)
    for status in (401, 500):
        server.answer = (status, {}, b"no")
        with pytest.raises(SynclineError) as raised:
            store.count(ALWAYS)
        assert KEY not in repr(raised.value)
        assert KEY not in repr(raised.value.__cause__)
    store.close()


class Aborting(grpc.GenericRpcHandler):
    """Ends every call with one status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code

    def service(self, handler_call_details: object) -> Any:
        def abort(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(self.code, "why")

        return grpc.unary_unary_rpc_method_handler(abort)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Unavailable),
        (grpc.StatusCode.INTERNAL, Unavailable),
        (grpc.StatusCode.ABORTED, Unavailable),
        (grpc.StatusCode.UNAUTHENTICATED, Misconfigured),
        (grpc.StatusCode.PERMISSION_DENIED, Misconfigured),
        (grpc.StatusCode.NOT_FOUND, Misconfigured),
        (grpc.StatusCode.INVALID_ARGUMENT, Misconfigured),
    ],
)
def test_a_grpc_status_becomes_one_of_two_errors(
    code: grpc.StatusCode, error: type[SynclineError]
) -> None:
    """The same decision over gRPC."""
    remote = grpc.server(ThreadPoolExecutor(1), handlers=[Aborting(code)])
    port = remote.add_insecure_port("127.0.0.1:0")
    remote.start()
    client = QdrantClient(
        url="http://127.0.0.1:9", grpc_port=port, prefer_grpc=True, check_compatibility=False
    )
    store = QdrantStore(client, "docs")
    with pytest.raises(error):
        store.retrieve([AN_ID])
    store.close()
    remote.stop(None).wait()


# --- requests ----------------------------------------------------------------------------------


def test_every_write_waits_and_is_ordered(server: Answering, store: QdrantStore) -> None:
    """Read-your-writes, and one order of conditional writes on all replicas."""
    one = {"operation_id": 1, "status": "completed"}
    server.answer = (200, {}, json.dumps({"result": one, "status": "ok", "time": 0}).encode())
    store.upsert([Point(AN_ID, {})])
    store.set_payload([AN_ID], {"a": 1})
    store.delete([AN_ID])
    store.delete_where(ALWAYS)
    store.create_field_index(("a.b", "c"), "keyword")
    many = {"result": [one], "status": "ok", "time": 0}
    server.answer = (200, {}, json.dumps(many).encode())
    store.upsert_conditionally([Conditional([Point(AN_ID, {})], ALWAYS)])
    assert len(server.requests) == 6
    for _, path, _ in server.requests:
        assert "wait=true" in path
        assert "ordering=strong" in path


def test_reads_see_what_was_written(server: Answering, store: QdrantStore) -> None:
    """Reads ask a majority of the replicas."""
    server.answer = (200, {}, json.dumps({"result": [], "status": "ok", "time": 0}).encode())
    assert store.retrieve([AN_ID]) == []
    server.answer = (200, {}, b'{"result": {"points": []}, "status": "ok", "time": 0}')
    assert store.scroll(ALWAYS, limit=1) == ([], None)
    one = np.ones(8, dtype=np.float32)
    assert store.query(dense=one, sparse=None, condition=None, limit=1) == []
    assert len(server.requests) == 3
    for _, path, _ in server.requests:
        assert "consistency=majority" in path


def test_a_guarded_write_as_it_is_sent() -> None:
    """One upsert a group, each with its filter."""
    guard = Range(path=("v",), lt=3)
    [operations] = to_upserts([Conditional([Point(AN_ID, {"v": 3})], guard)])
    [operation] = operations
    assert isinstance(operation, qdrant.UpsertOperation)
    assert operation.model_dump(exclude_none=True) == {
        "upsert": {
            "points": [{"id": AN_ID, "vector": {}, "payload": {"v": 3}}],
            "update_filter": {"must": [{"key": "v", "range": {"lt": 3.0}}]},
        }
    }


def test_a_write_that_must_not_insert_as_it_is_sent() -> None:
    """Groups stay apart by their mode, also under the same condition."""
    point = Point(AN_ID, {})
    [operations] = to_upserts(
        [Conditional([point], ALWAYS), Conditional([point, point], ALWAYS, insert=False)]
    )
    sent = [op.upsert for op in operations]  # type: ignore[union-attr]
    assert [(len(s.points), s.update_mode) for s in sent] == [  # type: ignore[union-attr]
        (1, None),
        (2, qdrant.UpdateMode.UPDATE_ONLY),
    ]


def test_conditions_as_they_are_sent() -> None:
    """One any-of a type, so that indexes are used; quoting only where needed."""
    condition = Either(
        conditions=(
            Match(path=("m", "a.b"), values=("x", 1, "y", True)),
            Not(condition=Either(conditions=())),
        )
    )
    key = 'm."a.b"'
    assert to_filter(condition).model_dump(exclude_none=True) == {
        "should": [
            {
                "should": [
                    {"key": key, "match": {"any": ["x", "y"]}},
                    {"key": key, "match": {"any": [1]}},
                    {"key": key, "match": {"value": True}},
                ]
            },
            {"must_not": [{"should": [{"has_id": []}]}]},
        ]
    }


def test_a_hybrid_query_as_it_is_sent() -> None:
    """The condition is inside both prefetches, and the fusion is RRF with k = 60."""
    only = Match(path=("c",), values=("x",))
    request = to_query(
        dense=np.ones(2, dtype=np.float32), sparse=Sparse([7], [1.0]), condition=only, limit=3
    )
    assert request is not None
    assert request["query"] == qdrant.RrfQuery(rrf=qdrant.Rrf(k=60))
    assert [p.using for p in request["prefetch"]] == ["dense", "bm25"]
    assert [p.filter for p in request["prefetch"]] == [to_filter(only)] * 2
    assert [p.limit for p in request["prefetch"]] == [50, 50]
    assert request["limit"] == 3


def test_requests_are_bounded_in_count_and_bytes() -> None:
    """1,100 small points are three requests; large ones are cut at 8 MiB; order stays."""
    small = [Point(str(n), {"n": n}) for n in range(1100)]
    assert [len(batch) for batch in batches(small)] == [500, 500, 100]
    large = [Point(str(n), {"t": "x" * 3 * 2**20}) for n in range(5)]
    assert [len(batch) for batch in batches(large)] == [2, 2, 1]
    assert [point for batch in batches(small) for point in batch] == small


def test_groups_cross_request_bounds_in_order() -> None:
    """Groups are split where a request is full, and each part keeps its condition."""
    first, second = Range(path=("a",), lt=1), Range(path=("b",), lt=1)
    points = [Point(str(n), {}) for n in range(800)]
    writes = [Conditional(points[:300], first), Conditional(points[300:], second)]
    sizes = [
        [len(op.upsert.points) for op in operations]  # type: ignore[union-attr]
        for operations in to_upserts(writes)
    ]
    assert sizes == [[300, 200], [300]]


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    """A wrong `qdrant.ca_file` is a clear error before anything is sent."""
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(Misconfigured, match=r"qdrant\.ca_file"):
        connect("https://localhost:6333", collection="c", ca_file=path)
