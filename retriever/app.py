"""The HTTP surface: `docs/http.md` describes it. No logic of its own.

Endpoints that wait for the store or the model are plain functions, which run in a thread pool.
Answers are built once and not validated again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import SecretStr
from starlette.responses import HTMLResponse, Response

from models.ids import public_id
from models.records import Entry
from retriever.comparing import Turn
from retriever.docs import docs_page
from retriever.guard import Guard
from retriever.page import load_page
from retriever.records import (
    DocumentView,
    ErrorBody,
    FailedDocument,
    FailedDocuments,
    ReindexRequest,
    SearchRequest,
    SearchResponse,
    VerifyRequest,
)
from retriever.responses import Json, add_error_handlers, error
from retriever.waiting import Searches, Waiting
from syncline import __version__
from syncline.errors import Misconfigured
from syncline.telemetry import Telemetry

Status = Callable[[], Mapping[str, Any]]
Ready = Callable[[], tuple[bool, Mapping[str, Any]]]
Failures = Callable[[int], Sequence[Entry]]


class Answers(Searches, Protocol):
    """Answers requests: a `Retriever`, or a `Serving` that passes them to one."""

    def document(self, collection: str, id_text: str) -> DocumentView | None: ...


class Reindex(Protocol):
    """Begins to build the index that the settings ask for now, or abandons it; the status then.

    Raises `Misconfigured`.
    """

    def __call__(self, *, abandon: bool) -> Mapping[str, Any]: ...


class Verify(Protocol):
    """Compares index and database; returns the report. Takes as long as it takes."""

    def __call__(self, *, deep: bool, repair: bool, forget: bool) -> Mapping[str, Any]: ...


def create_app(
    retriever: Answers,
    *,
    status: Status,
    ready: Ready,
    telemetry: Telemetry,
    api_key: SecretStr | None,
    failed: Failures,
    verify: Verify | None,
    reindex: Reindex | None = None,
) -> FastAPI:
    """The service as an ASGI app. Opens nothing.

    Without `api_key` (None or empty) everything is open; without `verify` there is no
    `/v1/verify`, nor `/v1/reindex` without `reindex`. All of these are called in a thread pool.
    """
    # FastAPI's own pages load their viewer from another host.
    app = FastAPI(title="Syncline", version=__version__, docs_url=None, redoc_url=None)
    key = api_key.get_secret_value() if api_key else ""
    app.add_middleware(Guard, api_key=key)
    telemetry.watch(status)
    add_error_handlers(app)
    v1 = APIRouter(
        prefix="/v1",
        responses=_ERRORS,
        # For the OpenAPI document; the guard has already looked.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if key else [],
    )
    _add_search(v1, retriever, telemetry)
    _add_ledger(v1, retriever, status, failed)
    if verify is not None:
        _add_verify(v1, verify)
    if reindex is not None:
        _add_reindex(v1, reindex)
    app.include_router(v1)
    _add_probes(app, ready, telemetry)
    _add_pages(app)
    return app


def _add_search(v1: APIRouter, retriever: Answers, telemetry: Telemetry) -> None:
    waiting = Waiting(retriever)

    @v1.post("/search", response_model=SearchResponse, responses=_BEHIND)
    async def search(request: SearchRequest) -> Response:
        """Find the chunks nearest to a query."""
        found = await waiting.search(request)
        telemetry.searched(request.mode, found.took_ms / 1_000)
        return Json(found)


def _add_ledger(v1: APIRouter, retriever: Answers, status: Status, failed: Failures) -> None:
    @v1.get("/status")
    def get_status() -> Response:
        """What the index holds and how far it is behind the database."""
        return Json(status())

    @v1.get("/documents/{collection}/{id:path}", response_model=DocumentView)
    def get_document(request: Request, collection: str, id: str) -> Response:
        """A document's entry and chunks. `id`: a string `_id`, or relaxed Extended JSON."""
        collection, id = _document_name(request, collection, id)
        found = retriever.document(collection, id)
        return Json(found) if found else error(404, "unknown or deleted", field="id")

    @v1.get("/failed", response_model=FailedDocuments)
    def get_failed(limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> Response:
        """Documents whose newest version could not be indexed, and why."""
        return Json(FailedDocuments(failed=tuple(map(_failed, failed(limit)))))


def _add_verify(v1: APIRouter, verify: Verify) -> None:
    turn = Turn()

    @v1.post("/verify")
    def post_verify(request: VerifyRequest) -> Response:
        """Compare index and database, and repair if asked to. One at a time."""
        with turn.taken() as is_mine:
            if not is_mine:
                return error(409, "a verification is already running")
            return Json(verify(**request.model_dump()))

    @v1.get("/verify")
    def get_verify() -> Response:
        """Whether a verification runs, and how far it has come."""
        return Json(turn.progress())


def _add_reindex(v1: APIRouter, reindex: Reindex) -> None:
    @v1.post("/reindex")
    def post_reindex(request: ReindexRequest) -> Response:
        """Read the settings again and build the index they ask for beside the one that serves."""
        try:
            return Json(reindex(abandon=request.abandon))
        except Misconfigured as refusal:
            return error(422, f"{refusal.problem}; remedy: {refusal.remedy}", field="settings")


def _add_probes(app: FastAPI, ready: Ready, telemetry: Telemetry) -> None:
    @app.get("/healthz")
    async def get_health() -> Response:
        """200 while the process lives."""
        return Json({"alive": True})

    @app.get("/readyz", responses={503: {"description": "Waiting, and for what"}})
    def get_ready() -> Response:
        """200 while searches are answered and changes flow."""
        is_ready, waiting_for = ready()
        if is_ready:
            return Json({"ready": True})
        return Json({"ready": False, "waiting_for": waiting_for}, 503, {"Retry-After": "1"})

    @app.get("/metrics", response_class=Response)
    def get_metrics() -> Response:
        """Prometheus' text format."""
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    search_page, documentation = load_page(), docs_page(app.openapi())

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def get_page() -> Response:
        return search_page

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def get_docs() -> Response:
        return documentation


def _document_name(request: Request, collection: str, id: str) -> tuple[str, str]:
    """Collection and `_id` as they were quoted: an encoded slash may be part of either."""
    raw: bytes = request.scope.get("raw_path", b"")
    quoted, slash, quoted_id = raw.partition(b"/documents/")[2].decode("ascii").partition("/")
    return (unquote(quoted), unquote(quoted_id)) if slash else (collection, id)


def _failed(entry: Entry) -> FailedDocument:
    failure = entry.failure
    return FailedDocument(
        document_id=public_id(entry.key),
        collection=entry.key.collection,
        version=".".join(map(str, entry.version)),
        step=failure.step if failure else "unknown",
        reason=failure.reason if failure else "",
        attempts=failure.attempts if failure else 1,
        chunks=len(entry.chunks),
    )


_BEHIND: dict[int | str, dict[str, Any]] = {
    504: {"model": ErrorBody, "description": "The index has not reached `after` in time"}
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON"},
    401: {"model": ErrorBody, "description": "The API key is missing or wrong"},
    422: {"model": ErrorBody, "description": "A field of the request is wrong"},
    503: {"model": ErrorBody, "description": "A service does not answer now"},
}
