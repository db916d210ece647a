"""What qdrant-client raises, over REST, gRPC and in local mode, in Syncline's own terms.

Decided by status, never by text. The worse mistake would be to call something `Misconfigured`
that passes: it stops the job, where `Unavailable` waits and shows itself in `/readyz`. So only a
status that says that the same request can never succeed becomes `Misconfigured`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from syncline.errors import Misconfigured, SynclineError, Unavailable

_SERVICE = "qdrant"
_HTTP_OF_GRPC = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 400,
}
_PASSING = frozenset({408, 409, 425, 429})


@contextmanager
def translated(collection: str) -> Iterator[None]:
    """Raise `Unavailable` or `Misconfigured` for whatever the client raises inside."""
    try:
        yield
    except UnexpectedResponse as error:
        text = error.content.decode("utf-8", "replace")[:300]
        raise of_status(error.status_code or 500, text, collection) from error
    except ResourceExhaustedResponse as error:
        raise Unavailable(_SERVICE, f"it asks for a pause: {error}") from error
    except ResponseHandlingException as error:
        raise _of_transport(error.source) from error
    except grpc.RpcError as error:
        raise _of_grpc(error, collection) from error
    except AssertionError as error:
        # The client asserts that an answer has a result: this is no Qdrant.
        raise _unreadable(str(error)) from error
    except ValueError as error:
        # Local mode has no statuses; over the wire it is a request that cannot be written.
        raise _refused(str(error)) from error


def of_status(status: int, text: str, collection: str) -> SynclineError:
    """The error that an answer of this HTTP status means."""
    if status in (401, 403):
        return Misconfigured(
            f"Qdrant refuses the credentials ({status})",
            "set qdrant.api_key (SYNCLINE_QDRANT_API_KEY) to a key that may read and write"
            f" {collection!r}",
            code="access_refused",
        )
    if status == 404:
        return Misconfigured(
            f"Qdrant has no collection {collection!r}, or lost a point of it: {text}",
            "check qdrant.url; a removed collection is made and filled anew at the next start",
            code="index_missing",
        )
    if status == 413:
        return Misconfigured(
            f"Qdrant refuses a request of this size: {text}",
            "raise service.max_request_size_mb on the server to 32 or more",
            code="qdrant_unfit",
        )
    if status >= 500 or status in _PASSING:
        return Unavailable(_SERVICE, f"status {status}: {text}")
    return _refused(f"status {status}: {text}")


def _of_grpc(error: grpc.RpcError, collection: str) -> SynclineError:
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNAVAILABLE
    text = str(error.details()) if isinstance(error, grpc.Call) else str(error)
    status = _HTTP_OF_GRPC.get(code)
    if status is None:
        return Unavailable(_SERVICE, f"{code.name}: {text}")
    return of_status(status, text, collection)


def _of_transport(source: Exception) -> SynclineError:
    if isinstance(source, httpx.TransportError):
        return Unavailable(_SERVICE, str(source) or type(source).__name__)
    return _unreadable(str(source))


def _unreadable(text: str) -> Misconfigured:
    return Misconfigured(
        f"Qdrant's answer cannot be read: {text}",
        "check that qdrant.url is a Qdrant server of a supported version",
        code="qdrant_unfit",
    )


def _refused(text: str) -> Misconfigured:
    return Misconfigured(
        f"Qdrant refuses the request: {text}",
        "check that the collection was made by this version and with this embedding model",
        code="qdrant_unfit",
    )
