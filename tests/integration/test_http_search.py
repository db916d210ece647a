"""The search endpoint over HTTP: its answers, its limits, and every way to ask wrongly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from connectors.qdrant_edge import EdgeStore
from models.records import Timestamp
from retriever.app import create_app
from retriever.guard import LARGEST_BODY
from retriever.records import SearchResponse
from retriever.search import Retriever
from syncline.errors import Misconfigured, Rejected, Unavailable
from syncline.telemetry import Telemetry
from tests.retrieval import Shelf

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \u202e \U0001f30a \x07"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A real index that no test here changes."""
    made = Shelf(EdgeStore(tmp_path_factory.mktemp("edge") / "index"))
    made.put("log/1901", "calm sea", "heavy storm", metadata={"year": 1901})
    made.put("hostile", HOSTILE, title=HOSTILE)
    made.reflect(77)
    yield made
    made.store.close()


@pytest.fixture
def client(shelf: Shelf) -> TestClient:
    return client_of(shelf.retriever)


def client_of(retriever: Retriever, telemetry: Telemetry | None = None) -> TestClient:
    app = create_app(
        retriever,
        status=lambda: {"state": "streaming"},
        ready=lambda: (True, {}),
        telemetry=telemetry or Telemetry(),
        api_key=None,
        failed=lambda limit: [],
        verify=None,
    )
    return TestClient(app, raise_server_exceptions=False)


def post(client: TestClient, body: Any) -> Any:
    """As Python writes JSON, which knows Infinity and lone surrogates; None is no body."""
    content = b"" if body is None else json.dumps(body)
    headers = {"content-type": "application/json"}
    return client.post("/v1/search", content=content, headers=headers)


class Late:
    """A retriever whose watermark passes a moment while it is looked at, and then is lost once."""

    def __init__(self, *watermarks: int) -> None:
        self._watermarks = list(watermarks)

    def watermark(self) -> Timestamp:
        return Timestamp(self._watermarks.pop(0), 1)

    def search(self, request: Any) -> SearchResponse:
        return SearchResponse(hits=(), as_of=str(self.watermark()), took_ms=0.1)


class Broken:
    """Stands where a retriever stands, and raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def search(self, request: Any) -> Any:
        raise self._error


def test_the_answer_has_exactly_the_promised_shape(client: TestClient) -> None:
    """Hits, as_of and took_ms, and of a hit the eight promised fields."""
    answer = client.post("/v1/search", json={"query": "storm", "mode": "sparse"})
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"hits", "as_of", "took_ms"}
    assert body["as_of"] == "77.1"
    [hit] = body["hits"]
    assert hit.keys() == {
        *("id", "score", "document_id", "collection"),
        *("position", "title", "text", "metadata"),
    }
    assert (hit["document_id"], hit["position"], hit["text"]) == ("log/1901", 1, "heavy storm")


def test_filter_and_limit_reach_the_search(client: TestClient) -> None:
    """The optional fields of a request are obeyed."""
    asked = {"query": "sea storm", "limit": 1, "filter": {"year": {"gte": 1900}}}
    assert len(client.post("/v1/search", json=asked).json()["hits"]) == 1
    asked = {"query": "sea storm", "filter": {"year": {"gte": 1902}}}
    assert client.post("/v1/search", json=asked).json()["hits"] == []


def test_hostile_text_comes_back_as_it_is(client: TestClient) -> None:
    """Text is data: nothing is escaped, lost or run on its way through JSON."""
    found = client.post("/v1/search", json={"query": "alert script"})
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert HOSTILE in {hit["text"] for hit in found.json()["hits"]}
    assert HOSTILE in {hit["title"] for hit in found.json()["hits"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n\t\u3000"}, "query"),
        ({"query": 7}, "query"),
        ({"query": "x" * 10_001}, "query"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "limit": 101}, "limit"),
        ({"query": "x", "limit": "5"}, "limit"),
        ({"query": "x", "limit": True}, "limit"),
        ({"query": "x", "limit": 1e999}, "limit"),
        ({"query": "x", "mode": "fuzzy"}, "mode"),
        ({"query": "x", "filter": None}, "filter"),
        ({"query": "x", "filter": []}, "filter"),
        ({"query": "x", "filter": {"year": {"near": 3}}}, "filter.year"),
        ({"query": "x", "filter": {"year": None}}, "filter.year"),
        ({"query": "x", "filter": {"a.b": [{}]}}, "filter.a.b"),
        ({"query": "x", "filter": {'a"b': 1}}, 'filter.a"b'),
        ({"query": "x", "filter": {"": 1}}, "filter"),
        ({"query": "x", "after": "yesterday"}, "after"),
        ({"query": "x", "after": "1.4294967296"}, "after"),
        ({"query": "x", "after": 1764000000.3}, "after"),
        ({"query": "x", "after": "1.1", "wait_seconds": 61}, "wait_seconds"),
        ({"query": "x", "top_k": 3}, "top_k"),
        ([], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
def test_a_wrong_request_is_told_its_field(client: TestClient, body: Any, field: str) -> None:
    """422 with the field's name and the problem, in the one shape of all errors."""
    answer = post(client, body)
    assert answer.status_code == 422
    assert answer.json()["error"].keys() == {"field", "problem"}
    assert answer.json()["error"]["field"] == field


def test_an_unknown_field_is_called_that(client: TestClient) -> None:
    """A misspelt option is refused by name instead of being ignored."""
    answer = post(client, {"query": "x", "top_k": 3})
    assert answer.json()["error"] == {"problem": "unknown field", "field": "top_k"}


def test_json_must_be_sent_as_json(client: TestClient) -> None:
    """What a form of another site could send is refused, and says how to do it."""
    headers = {"content-type": "text/plain"}
    answer = client.post("/v1/search", content='{"query": "storm"}', headers=headers)
    assert answer.status_code == 422
    assert "application/json" in answer.json()["error"]["problem"]


@pytest.mark.parametrize("body", ["{", '{"query": }', "[" * 100_000, b"\xff\xfe"])
def test_malformed_json_is_400(client: TestClient, body: str | bytes) -> None:
    """What cannot be read at all is refused as such, whatever it is."""
    answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["problem"]


@pytest.mark.parametrize("query", ["\ud800", "a\x00b", "x " * 5_000, "\U0001f30a", "' OR 1=1 --"])
def test_no_query_is_an_error_of_ours(client: TestClient, query: str) -> None:
    """Broken Unicode, NULs and the longest query are answered or refused, never a 500."""
    body = {"query": query, "filter": {"tag": query}}
    assert post(client, body).status_code in (200, 422)


def test_a_body_over_the_limit_is_413(client: TestClient) -> None:
    """A megabyte is enough for anyone; more is refused without being parsed."""
    answer = client.post("/v1/search", content=b" " * (LARGEST_BODY + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["field"] == "body"


def test_an_endless_body_is_413(client: TestClient) -> None:
    """A body that does not say its length is cut off at the limit, not collected."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 5 * LARGEST_BODY:
            sent += 100_000
            yield b" " * 100_000

    assert client.post("/v1/search", content=endless()).status_code == 413


def test_a_store_that_is_away_is_503_with_retry_after() -> None:
    """The service is named, and when to ask again."""
    answer = client_of(Broken(Unavailable("qdrant", "refused"))).post(  # type: ignore[arg-type]
        "/v1/search", json={"query": "x"}
    )
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json() == {"error": {"problem": "refused", "service": "qdrant"}}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Misconfigured("/secret/path cannot be used", "remove /secret/path"), 503),
        (RuntimeError("/secret/path"), 500),
    ],
)
def test_our_own_troubles_are_not_shown(error: Exception, status: int) -> None:
    """Neither paths nor tracebacks leave the process."""
    answer = client_of(Broken(error)).post("/v1/search", json={"query": "x"})  # type: ignore[arg-type]
    assert answer.status_code == status
    assert answer.json()["error"]["problem"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_a_query_that_the_model_refuses_is_422() -> None:
    """No finite vector for a query is the query's problem."""
    answer = client_of(Broken(Rejected("embed", "no finite vector"))).post(  # type: ignore[arg-type]
        "/v1/search", json={"query": "x"}
    )
    assert answer.status_code == 422
    assert answer.json() == {"error": {"problem": "no finite vector", "field": "query"}}


def test_a_search_waits_until_the_index_is_as_far() -> None:
    """It looks until the moment is reached, and answers as of then or later, never earlier."""
    # Two looks too early, one late enough, whose answer is not; and one that is.
    client = client_of(Late(75, 76, 77, 0, 78))  # type: ignore[arg-type]
    answer = post(client, {"query": "x", "after": "77.1"})
    assert answer.status_code == 200 and answer.json()["as_of"] == "78.1"


def test_a_search_waits_no_longer_than_asked(client: TestClient) -> None:
    """504 tells how far the index is; what it has reached is answered without waiting."""
    late = post(client, {"query": "x", "after": "77.2", "wait_seconds": 0.05})
    assert late.status_code == 504 and late.headers["retry-after"]
    assert late.json() == {"error": {"problem": "the index is as of 77.1", "field": "after"}}
    assert post(client, {"query": "x", "after": "77.1", "wait_seconds": 0}).status_code == 200


def test_searches_are_counted_by_mode(shelf: Shelf) -> None:
    """Each answered search is one observation of its mode's histogram."""
    telemetry = Telemetry()
    client = client_of(shelf.retriever, telemetry)
    client.post("/v1/search", json={"query": "storm", "mode": "sparse"})
    client.post("/v1/search", json={"query": "", "mode": "dense"})
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert 'syncline_search_seconds_count{mode="sparse"} 1.0' in metrics.text
    assert 'mode="dense"' not in metrics.text
