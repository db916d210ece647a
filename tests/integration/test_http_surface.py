"""Everything over HTTP but the search: ledger, probes, key, verify, and the page."""

from __future__ import annotations

import hmac
import re
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from connectors.memory import MemoryStore
from retriever.app import create_app
from retriever.comparing import report
from retriever.docs import docs_page
from syncline.errors import Misconfigured, Stopped, Unavailable
from syncline.telemetry import Telemetry
from tests.retrieval import Shelf


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(MemoryStore())


def client_of(shelf: Shelf, key: str = "", **parts: Any) -> TestClient:
    defaults: dict[str, Any] = {
        "status": lambda: {"state": "streaming", "chunks": 3},
        "ready": lambda: (True, {}),
        "telemetry": Telemetry(),
        "api_key": SecretStr(key),
        "failed": shelf.index.failed,
        "verify": None,
    }
    app = create_app(shelf.retriever, **(defaults | parts))
    return TestClient(app, raise_server_exceptions=False)


def document(client: TestClient, collection: str, id_text: str) -> Any:
    return client.get(f"/v1/documents/{quote(collection, safe='')}/{quote(id_text, safe='')}")


# --- documents and failures -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("plain", "plain"),
        ("a/b c?d#e%2F", "a/b c?d#e%2F"),
        ("/", "/"),
        ("", ""),
        ("Zürich 海", "Zürich 海"),
        (7, "7"),
        ("7", '"7"'),
        ({"x": "a/b"}, '{"x": "a/b"}'),
    ],
)
def test_any_id_can_be_asked_for(shelf: Shelf, stored: Any, asked: str) -> None:
    """Slashes, JSON and every script survive the way through a URL."""
    shelf.put(stored, "storm", collection="ships/logs.2")
    found = document(client_of(shelf), "ships/logs.2", asked)
    assert found.status_code == 200
    assert found.json()["chunks"][0]["text"] == "storm"


def test_an_unquoted_slash_belongs_to_the_id(shelf: Shelf) -> None:
    """A path typed by hand works as well."""
    shelf.put("a/b", "storm")
    assert client_of(shelf).get("/v1/documents/notes/a/b").json()["document_id"] == "a/b"


def test_a_document_has_the_promised_fields(shelf: Shelf) -> None:
    """Entry and chunks in the documented shape."""
    shelf.put("log", "one", "two", at=12, metadata={"year": 1901})
    body = document(client_of(shelf), "notes", "log").json()
    assert {k: v for k, v in body.items() if k != "chunks"} == {
        "document_id": "log",
        "collection": "notes",
        "state": "indexed",
        "version": "12.1.0",
        "title": "Title of log",
        "metadata": {"year": 1901},
        "failure": None,
    }
    assert [(c["position"], c["text"], c["headings"]) for c in body["chunks"]] == [
        (0, "one", ["Top"]),
        (1, "two", ["Top"]),
    ]


@pytest.mark.parametrize("asked", ["never", "gone", '{"$oid": "zz"}'])
def test_unknown_and_deleted_documents_are_404(shelf: Shelf, asked: str) -> None:
    """404 in the one shape of all errors."""
    shelf.put("gone", "storm")
    shelf.delete("gone", at=20)
    answer = document(client_of(shelf), "notes", asked)
    assert answer.status_code == 404
    assert answer.json() == {"error": {"problem": "unknown or deleted", "field": "id"}}


def test_failed_documents_are_listed_with_their_reason(shelf: Shelf) -> None:
    """Step, reason, attempts, and whether a good version is still searchable."""
    shelf.put("fine", "storm")
    shelf.fail("bad", at=20, chunks=shelf.stage("bad", "storm"))
    assert client_of(shelf).get("/v1/failed").json() == {
        "failed": [
            {
                "document_id": "bad",
                "collection": "notes",
                "version": "20.1.0",
                "step": "map",
                "reason": "no <text> there",
                "attempts": 2,
                "chunks": 1,
            }
        ]
    }


def test_the_list_of_failures_is_limited(shelf: Shelf) -> None:
    """`limit` bounds it; a wrong one is told."""
    for n in range(3):
        shelf.fail(n, at=20)
    client = client_of(shelf)
    assert len(client.get("/v1/failed", params={"limit": 2}).json()["failed"]) == 2
    for wrong in ("0", "1001", "many"):
        answer = client.get("/v1/failed", params={"limit": wrong})
        assert answer.status_code == 422
        assert answer.json()["error"]["field"] == "limit"


# --- status and probes ------------------------------------------------------------------------


def test_status_is_what_the_worker_says(shelf: Shelf) -> None:
    """The status is passed through, and 503 while the index does not answer."""
    assert client_of(shelf).get("/v1/status").json() == {"state": "streaming", "chunks": 3}

    def away() -> Mapping[str, Any]:
        raise Unavailable("qdrant", "refused")

    answer = client_of(shelf, status=away).get("/v1/status")
    assert (answer.status_code, answer.json()["error"]["service"]) == (503, "qdrant")


def test_a_lone_surrogate_has_a_json_form(shelf: Shelf) -> None:
    """Text that UTF-8 cannot carry is escaped, not an error."""
    answer = client_of(shelf, status=lambda: {"state": "\ud800 ü"}).get("/v1/status")
    assert answer.content == '{"state":"\\ud800 ü"}'.encode()


def test_readiness_says_what_is_waited_for(shelf: Shelf) -> None:
    """200 when ready, else 503 with the service and the reason."""
    assert client_of(shelf).get("/readyz").json() == {"ready": True}
    waiting = client_of(shelf, ready=lambda: (False, {"mongo": "no primary"})).get("/readyz")
    assert waiting.status_code == 503
    assert waiting.json() == {"ready": False, "waiting_for": {"mongo": "no primary"}}


def test_the_process_is_alive_whatever_it_waits_for(shelf: Shelf) -> None:
    """Liveness does not depend on services, so that nothing restarts a waiting process."""
    assert client_of(shelf, ready=lambda: (False, {})).get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/search", 405)]
)
def test_wrong_addresses_are_errors_of_the_same_shape(
    shelf: Shelf, method: str, path: str, status: int
) -> None:
    """404 and 405 are JSON like all other errors."""
    answer = client_of(shelf).request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["problem"]


def test_the_documentation_describes_our_errors(shelf: Shelf) -> None:
    """OpenAPI names the request's fields and the one error shape, at /docs."""
    client = client_of(shelf)
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    search = schema["paths"]["/v1/search"]["post"]["responses"]
    assert search["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert "limit" in schema["components"]["schemas"]["SearchRequest"]["properties"]


# --- the key ----------------------------------------------------------------------------------

CLOSED = [
    ("POST", "/v1/search"),
    ("GET", "/v1/status"),
    ("GET", "/v1/documents/notes/log"),
    ("GET", "/v1/failed"),
    ("POST", "/v1/verify"),
    ("POST", "/v1/reindex"),
    ("GET", "/nope"),
    ("GET", "//v1/status"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic s3cret-ü"},
        {"X-API-Key": ""},
        {"X-API-Key": "s3cret"},
    ],
)
def test_without_the_key_everything_else_is_closed(
    shelf: Shelf, method: str, path: str, headers: dict[str, str]
) -> None:
    """401 before anything is read, in the one shape of all errors."""
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    answer = client_of(shelf, "s3cret-ü").request(method, path, content=b"{", headers=raw)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["problem"]


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
def test_the_key_opens(shelf: Shelf, name: str) -> None:
    """Both headers carry it, also one that is not ASCII."""
    value = "Bearer s3cret-ü" if name == "Authorization" else "s3cret-ü"
    answer = client_of(shelf, "s3cret-ü").get("/v1/status", headers={name.encode(): value.encode()})
    assert answer.status_code == 200


@pytest.mark.parametrize("key", [None, SecretStr("")])
def test_without_a_key_set_none_is_asked_for(shelf: Shelf, key: SecretStr | None) -> None:
    """Everything is open, and a header that some client sends anyway does not matter."""
    client = client_of(shelf, api_key=key)
    assert client.get("/v1/status").status_code == 200
    assert client.get("/v1/status", headers={"X-API-Key": "any"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/docs"])
def test_probes_and_page_stay_open(shelf: Shelf, path: str) -> None:
    """What holds no documents needs no key."""
    assert client_of(shelf, "s3cret").get(path).status_code == 200


def test_the_key_is_compared_in_constant_time(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is `hmac.compare_digest` on the whole bytes of both, and decides."""
    compared = []

    def always(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return True

    monkeypatch.setattr(hmac, "compare_digest", always)
    answer = client_of(shelf, "s3cret").get("/v1/status", headers={"X-API-Key": "wrong"})
    assert compared == [(b"wrong", b"s3cret")]
    assert answer.status_code == 200


# --- verify -----------------------------------------------------------------------------------


def test_verify_passes_its_options_on(shelf: Shelf) -> None:
    """The report comes back as it is."""
    client = client_of(shelf, verify=lambda **options: options)
    none = {"deep": False, "repair": False, "forget": False}
    for name in none:
        assert client.post("/v1/verify", json={name: True}).json() == {**none, name: True}
    assert client.post("/v1/verify", json={}).json() == none
    wrong = client.post("/v1/verify", json={"depp": True})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "depp")


def test_only_one_verification_runs(shelf: Shelf) -> None:
    """A second one is 409 while the first runs, and welcome after it."""
    started, finish = threading.Event(), threading.Event()

    def slow(**options: bool) -> Mapping[str, Any]:
        started.set()
        assert finish.wait(10)
        return {"in_sync": True}

    with client_of(shelf, verify=slow) as client:
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(client.post("/v1/verify", json={})))
        thread.start()
        assert started.wait(10)
        assert client.post("/v1/verify", json={}).status_code == 409
        assert client.get("/healthz").status_code == 200
        finish.set()
        thread.join(10)
        assert first[0].json() == {"in_sync": True}
        assert client.post("/v1/verify", json={}).status_code == 200


def test_a_failed_verification_does_not_block_the_next(shelf: Shelf) -> None:
    """The turn is given back also when it ends with an error."""

    def away(**options: bool) -> Mapping[str, Any]:
        raise Unavailable("mongo", "no primary")

    client = client_of(shelf, verify=away)
    assert [client.post("/v1/verify", json={}).status_code for _ in range(2)] == [503, 503]


def test_a_stop_in_the_middle_is_told_as_that(shelf: Shelf) -> None:
    """503 and when to ask again: no fault, no drift, no half report."""

    def stopped(**options: bool) -> Mapping[str, Any]:
        raise Stopped("the comparison was stopped")

    answer = client_of(shelf, verify=stopped).post("/v1/verify", json={})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "stopping" in answer.json()["error"]["problem"]


def test_a_verification_can_be_followed(shelf: Shelf) -> None:
    """How far the running one is, and nothing before and after it, however it ends."""
    seen: list[Any] = []

    def slow(**options: bool) -> Mapping[str, Any]:
        seen.append(client.get("/v1/verify").json())
        report(3, 2, "documents")
        seen.append(client.get("/v1/verify").json())
        raise Unavailable("mongo", "no primary")

    client = client_of(shelf, verify=slow)
    assert client.post("/v1/verify", json={}).status_code == 503
    assert seen == [
        {"running": True},
        {"running": True, "compared": "documents", "done": 3, "of": 3},
    ]
    report(1, 2, "documents")
    assert client.get("/v1/verify").json() == {"running": False}


def test_without_verify_there_is_no_such_address(shelf: Shelf) -> None:
    """A retriever that runs alone cannot compare with the database."""
    assert client_of(shelf).post("/v1/verify", json={}).status_code == 404


# --- the page ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_nothing_from_elsewhere(shelf: Shelf, path: str) -> None:
    """No address of another origin, no file beside it: it works offline."""
    html = client_of(shelf).get(path).text
    assert not re.search(r"(?:https?:)?//[\w.-]+\.\w", html)
    assert not re.search(r"\b(?:src|action|@import)\s*[=(]", html)


def test_the_page_runs_only_its_own_script(shelf: Shelf) -> None:
    """The policy forbids everything but the hashes of the page's script and style."""
    answer = client_of(shelf).get("/")
    policy = dict(p.split(" ", 1) for p in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    for kind in ("script", "style"):
        [text] = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"


def test_the_documentation_is_all_of_openapi(shelf: Shelf) -> None:
    """Every operation, field and description stands on the page, and every link leads somewhere."""
    client = client_of(shelf, verify=lambda **options: {})
    page, openapi = client.get("/docs").text, client.get("/openapi.json").json()
    told = " ".join(unescape(re.sub(r"<[^>]+>", "", page)).split())
    for path, methods in openapi["paths"].items():
        assert all(f"{method.upper()} {path}" in told for method in methods)
    schemas = openapi["components"]["schemas"]
    for schema in schemas.values():
        for name, field in schema["properties"].items():
            assert f"<code>{name}</code>" in page
            assert " ".join(field.get("description", "").replace("`", "").split()) in told
    assert set(re.findall(r"href='#(\w+)'", page)) <= set(re.findall(r"id='(\w+)'", page))
    assert set(re.findall(r"id='(\w+)'", page)) == set(schemas)


def test_the_documentation_runs_nothing(shelf: Shelf) -> None:
    """The policy allows no script at all, and text from the code is no markup."""
    answer = client_of(shelf).get("/docs")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    info = {"title": "<b>", "version": "1"}
    hostile = {"x": {"get": {"description": "<i>`<u>`", "responses": {}}}}
    page = bytes(docs_page({"info": info, "paths": hostile}).body).decode()
    assert not re.search(r"<[biu]>(?!GET)", page)


def test_the_page_never_makes_markup_of_text(shelf: Shelf) -> None:
    """No sink of the page parses HTML, and no handler or style stands in an attribute."""
    html = client_of(shelf).get("/").text
    sinks = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|DOMParser|srcdoc"
    )
    assert not re.search(sinks, html)
    assert not re.search(r"\s(?:on\w+|style)=", html)


def test_the_service_never_loads_the_dataflow() -> None:
    """Importing the service imports neither Bytewax nor the model's library."""
    code = "import sys, retriever.app; print(sorted({'bytewax', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- reindex ----------------------------------------------------------------------------------


def test_a_reindex_is_asked_for_in_json(shelf: Shelf) -> None:
    """The answer is the status; another site's form cannot ask; wrong settings are told."""
    asked: list[bool] = []

    def reindex(*, abandon: bool) -> Mapping[str, Any]:
        asked.append(abandon)
        if abandon:
            raise Misconfigured("chunker.max_tokens = 9", "set it higher")
        return {"building": None}

    client = client_of(shelf, reindex=reindex)
    assert client.post("/v1/reindex", json={"abandon": False}).json() == {"building": None}
    refused = client.post("/v1/reindex", json={"abandon": True})
    assert refused.status_code == 422
    assert "set it higher" in refused.json()["error"]["problem"]
    for wrong in ({"data": {"abandon": "true"}}, {"json": {"abandon": "yes"}}, {"content": b""}):
        assert client.post("/v1/reindex", **wrong).status_code == 422
    assert asked == [False, True]


def test_without_it_there_is_no_reindex(shelf: Shelf) -> None:
    """A process that builds no index says so."""
    assert client_of(shelf).post("/v1/reindex", json={}).status_code == 404
