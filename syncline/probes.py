"""The small HTTP surface of a process that only runs a flow: probes, metrics and its status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import SecretStr
from starlette.responses import Response

from retriever.guard import Guard
from retriever.responses import Json, add_error_handlers
from syncline import __version__
from syncline.telemetry import Telemetry


def create_probes(
    *,
    status: Callable[[], Mapping[str, Any]],
    ready: Callable[[], tuple[bool, Mapping[str, str]]],
    telemetry: Telemetry,
    api_key: SecretStr | None,
) -> FastAPI:
    """`/healthz`, `/readyz`, `/metrics` and `/v1/status` as an ASGI app. Opens nothing.

    With an `api_key`, `/v1/status` needs it; probes and metrics hold no data and never do.
    """
    app = FastAPI(title="Syncline", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, api_key=api_key.get_secret_value() if api_key else "")
    add_error_handlers(app)
    telemetry.watch(status)

    @app.get("/healthz")
    async def get_health() -> Response:
        """200 while the process lives."""
        return Json({"alive": True})

    @app.get("/readyz")
    def get_ready() -> Response:
        """200 while changes flow."""
        is_ready, waiting_for = ready()
        if is_ready:
            return Json({"ready": True})
        return Json({"ready": False, "waiting_for": waiting_for}, 503, {"Retry-After": "1"})

    @app.get("/metrics")
    def get_metrics() -> Response:
        """Prometheus' text format."""
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/status")
    def get_status() -> Response:
        """What this process has done since it started, and what it waits for."""
        return Json(status())

    return app
