"""Talks to a running Syncline over HTTP, for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from syncline.errors import Misconfigured, Unavailable
from syncline.runtime import find_running
from syncline.settings import Configuration


class Client:
    """One running Syncline.

    Raises `Unavailable` if none answers, or not now, and `Misconfigured` if it refuses.
    """

    def __init__(self, url: str, api_key: str = "", *, timeout_seconds: float = 30) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout_seconds, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def search(self, query: str, **options: Any) -> dict[str, Any]:
        """`POST /v1/search`."""
        return self._call("POST", "/v1/search", json={"query": query, **options})

    def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        return self._call("GET", "/v1/status")

    def failed(self, limit: int) -> list[dict[str, Any]]:
        """`GET /v1/failed`."""
        found: list[dict[str, Any]] = self._call("GET", "/v1/failed", params={"limit": limit})[
            "failed"
        ]
        return found

    def document(self, collection: str, document_id: str) -> dict[str, Any] | None:
        """`GET /v1/documents/{collection}/{id}`; None if unknown or deleted."""
        path = f"/v1/documents/{_quoted(collection)}/{_quoted(document_id)}"
        response = self._send("GET", path)
        return None if response.status_code == 404 else self._read(response)

    def verify(self, *, deep: bool, repair: bool, forget: bool = False) -> dict[str, Any]:
        """`POST /v1/verify`; takes as long as it takes."""
        body = {"deep": deep, "repair": repair, "forget": forget}
        return self._read(self._send("POST", "/v1/verify", json=body, timeout=None))

    def verifying(self) -> dict[str, Any]:
        """`GET /v1/verify`."""
        return self._call("GET", "/v1/verify")

    def reindex(self, *, abandon: bool) -> dict[str, Any]:
        """`POST /v1/reindex`; may load a model. The status then."""
        response = self._send("POST", "/v1/reindex", json={"abandon": abandon}, timeout=None)
        if response.status_code in (404, 405):
            raise Misconfigured(
                f"{self.url} builds no index beside the one that serves",
                "only `syncline up` without Pulsar does, and `syncline sync` at its start; else"
                " set qdrant.collection (and pulsar.subscription) to new names",
            )
        return self._read(response)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._read(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable("syncline", f"nothing answers at {self.url} ({error})") from error

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_success:
            body: dict[str, Any] = response.json()
            return body
        problem = _problem(response)
        if response.is_server_error or response.status_code == httpx.codes.CONFLICT:
            raise Unavailable("syncline", problem)
        raise Misconfigured(f"{self.url} answered {response.status_code}: {problem}", _REMEDY)


def connect(config: Configuration, url: str | None = None) -> Client:
    """The Syncline at `url`, else the one running on the data directory, else at http.host:port."""
    running = find_running(config.local.data_dir)
    default = f"http://{config.http.host}:{config.http.port}"
    return Client(
        url or (running["http"] if running else default), config.http.api_key.get_secret_value()
    )


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def _problem(response: httpx.Response) -> str:
    try:
        error: Mapping[str, Any] = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
    return ": ".join(str(v) for k in ("field", "problem") if (v := error.get(k)))


_REMEDY = "correct the request; for 401, set http.api_key (SYNCLINE_HTTP_API_KEY)"
