"""What the retriever is asked and what it answers: the bodies of the HTTP surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from models.records import Record, Timestamp

Mode = Literal["hybrid", "dense", "sparse"]

LONGEST_QUERY = 10_000
"""Characters. Far more than any model reads; what it cannot read of a query is cut."""
MOST_HITS = 100


def _not_blank(query: str) -> str:
    if not query.strip():
        raise PydanticCustomError("blank", "must not be empty")
    return query


def _cluster_time(text: str) -> str:
    try:
        Timestamp.parse(text)
    except ValueError as error:
        raise PydanticCustomError("cluster_time", "{why}", {"why": str(error)}) from None
    return text


class Body(Record):
    """Base of all bodies: what the fields' docstrings say stands in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class SearchRequest(Body):
    """A query. `hybrid` fuses the ranks of both other modes (RRF)."""

    # Strict: "5" and true are no limits.
    model_config = ConfigDict(strict=True)

    query: Annotated[str, Field(max_length=LONGEST_QUERY), AfterValidator(_not_blank)]
    limit: int = Field(10, ge=1, le=MOST_HITS)
    mode: Mode = "hybrid"
    filter: dict[str, Any] = Field(default_factory=dict)
    """`{field: value | [values] | {"gte" | "gt" | "lte" | "lt": bound}}`; all must hold.
    Fields: `collection`, `document_id` and any metadata field, dots leading into objects."""
    after: Annotated[str, AfterValidator(_cluster_time)] | None = None
    """Answer only once the index contains everything written up to this cluster time,
    `"<seconds>.<increment>"`: the `operationTime` of a write makes its writer read it."""
    wait_seconds: float = Field(10, ge=0, le=60)
    """How long `after` is waited for, before the answer is 504."""


class Hit(Body):
    """One chunk that was found."""

    id: str
    score: float
    """Cosine, BM25 or RRF, by mode: comparable within one answer only."""
    document_id: str
    """`_id`: a plain string for a string, else relaxed Extended JSON."""
    collection: str
    position: int
    """Its place among the chunks of its document, from 0."""
    title: str
    text: str
    metadata: Mapping[str, Any]


class SearchResponse(Body):
    """Hits, best first."""

    hits: tuple[Hit, ...]
    as_of: str
    """`"<seconds>.<increment>"` of cluster time: everything written up to it was searched.
    `"0.0"` while that is not known: until the first snapshot is complete, and over Pulsar for a
    moment after a drop or rename."""
    took_ms: float


class ChunkView(Body):
    """One chunk of a document."""

    id: str
    position: int
    text: str
    headings: tuple[str, ...]


class FailureView(Body):
    """Why the newest version of a document is not in the index."""

    step: str
    reason: str
    attempts: int


class DocumentView(Body):
    """What the index knows about one document."""

    document_id: str
    collection: str
    state: Literal["indexed", "failed"]
    """`failed`: the newest version is not in the index; title and chunks are the last good ones."""
    version: str
    """`"<seconds>.<increment>.<n>"` of cluster time."""
    title: str
    metadata: Mapping[str, Any]
    """Of its first chunk: empty for a document without text."""
    failure: FailureView | None
    chunks: tuple[ChunkView, ...]


class FailedDocument(Body):
    """A document whose newest version could not be indexed."""

    document_id: str
    collection: str
    version: str
    step: str
    reason: str
    attempts: int
    chunks: int
    """How many chunks of its last good version are still searchable."""


class FailedDocuments(Body):
    """The documents in state `failed`, in no order."""

    failed: tuple[FailedDocument, ...]


class VerifyRequest(Body):
    """What to compare, and whether to put it right."""

    model_config = ConfigDict(strict=True)

    deep: bool = False
    """Also compute the chunks of every document again (nothing is embedded)."""
    repair: bool = False
    forget: bool = False
    """Once in sync, forget messages that could not be read."""


class ReindexRequest(Body):
    """Build the index that the settings ask for, or give up the one that is being built."""

    model_config = ConfigDict(strict=True)

    abandon: bool = False


class ErrorDetail(Body):
    """What is wrong."""

    problem: str
    field: str | None = None
    """The part of the request that is wrong, e.g. `limit` or `filter.year`."""
    service: str | None = None
    """The service that does not answer."""


class ErrorBody(Body):
    """The body of every answer that is not 2xx; absent parts are left out."""

    error: ErrorDetail
