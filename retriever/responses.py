"""JSON answers, and every error as one shape: `{"error": {"problem", "field"?, "service"?}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from models.filters import InvalidFilter
from retriever.waiting import Behind
from syncline.errors import Misconfigured, Rejected, Stopped, Unavailable

_log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 1
"""A restarted service is often back at once; asking once a second does it no harm."""


class Json(Response):
    """JSON of plain values, mappings and records, not validated a second time."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, status, {"X-Content-Type-Options": "nosniff", **(headers or {})})

    def render(self, content: Any) -> bytes:
        """UTF-8; a lone surrogate, which UTF-8 cannot carry, as JSON's own escape."""
        text = json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
        return text.encode("utf-8", "backslashreplace")


def error(
    status: int, problem: str, *, headers: Mapping[str, str] | None = None, **where: str
) -> Json:
    """An error; `where` is `field` or `service`."""
    return Json({"error": {"problem": problem, **where}}, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the one shape; what a client cannot mend is told to the log only."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(InvalidFilter, _invalid_filter)
    app.add_exception_handler(Rejected, _rejected)
    app.add_exception_handler(Behind, _behind)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(Stopped, _stopped)
    app.add_exception_handler(Misconfigured, _misconfigured)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


async def _invalid_request(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, RequestValidationError)
    first = failure.errors()[0]
    if first["type"] == "json_invalid":
        return error(400, "is not valid JSON", field="body")
    place = ".".join(str(part) for part in first["loc"][1:])
    problem = _PROBLEMS.get(first["type"], first["msg"])
    return error(422, problem, field=place or str(first["loc"][0]))


async def _invalid_filter(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, InvalidFilter)
    field = f"filter.{failure.field}" if failure.field else "filter"
    return error(422, failure.problem, field=field)


async def _rejected(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, Rejected)
    return error(422, failure.reason, field="query")


async def _behind(_: Request, failure: Exception) -> Response:
    return error(504, str(failure), headers=_RETRY, field="after")


async def _unavailable(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, Unavailable)
    return error(503, failure.reason, headers=_RETRY, service=failure.service)


async def _stopped(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, Stopped)
    return error(503, f"the service is stopping: {failure}", headers=_RETRY)


async def _misconfigured(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, Misconfigured)
    # May name paths and addresses, which are no business of whoever searches.
    _log.error("request_failed", problem=failure.problem, remedy=failure.remedy)
    return error(503, "the index cannot be used; the service's log says why", headers=_RETRY)


async def _http(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, HTTPException)
    if failure.status_code == 400:
        return error(400, "is not valid JSON", field="body")
    return error(failure.status_code, failure.detail, headers=failure.headers)


async def _unexpected(_: Request, failure: Exception) -> Response:
    # Starlette raises it again after this answer, so the server logs the traceback.
    return error(500, "internal error; the service's log says more")


_PROBLEMS = {
    "extra_forbidden": "unknown field",
    # Only as JSON: another site's page can make a browser send anything else.
    "model_attributes_type": "must be a JSON object, sent with Content-Type: application/json",
}
_RETRY = {"Retry-After": str(RETRY_AFTER_SECONDS)}
