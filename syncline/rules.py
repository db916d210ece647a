"""How documents are read: one rule per collection, `[mapping.<collection>]` of syncline.toml."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DEFAULT_MAX_BYTES = 20_000_000
_CONTENT_TYPES = ("auto", "text", "markdown", "html", "pdf", "docx")


def is_template(source: str) -> bool:
    """Whether `source` is a template such as `"{headline}: {summary}"`, not a field path."""
    return "{" in source


def template_fields(template: str) -> list[str]:
    """The field paths a template names. Raises ValueError if it is not well formed."""
    paths = []
    for _, path, spec, conversion in Formatter().parse(template):
        if path is None:
            continue
        if spec or conversion or not all(path.split(".")) or "[" in path:
            raise ValueError("a template names fields as {field} or {outer.inner}, nothing else")
        paths.append(path)
    return paths


def _source(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise ValueError('expected a field path such as "body.content", or a template with {field}')
    if not is_template(value):
        return _path(value)
    if not template_fields(value):
        raise ValueError("this template names no field")
    return value


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not all(value.split(".")):
        raise ValueError(f'expected a field path such as "body.content", got {value!r}')
    return value


def _sources(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value if value is None else (_source(value),)
    if isinstance(value, (list, tuple)) and value:
        return tuple(_source(item) for item in value)
    raise ValueError("expected a field path, a template, or a list of these")


def _metadata(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return {_path(path): path for path in value}
    if isinstance(value, dict):
        return {_path(name): _path(path) for name, path in value.items()}
    raise ValueError("expected a list of field paths, or a table of name = path")


def _content_type(value: Any) -> Any:
    if isinstance(value, (ContentTypeField, dict)) or value in _CONTENT_TYPES:
        return value
    choices = ", ".join(_CONTENT_TYPES)
    raise ValueError(f'expected one of {choices}, or {{ field = "path" }}; got {value!r}')


class ContentTypeField(BaseModel):
    """The content type is in a field of each document, as a MIME type or a file's extension."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Annotated[str, BeforeValidator(_path)]


class MappingRule(BaseModel):
    """What of a MongoDB document is title, text and metadata. Without values: the defaults.

    Paths lead into objects by dots and through every item of a list. A template is text with
    paths in braces; braces themselves are doubled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Annotated[str | None, BeforeValidator(lambda v: v if v is None else _source(v))] = None
    """A path or template. Default: `title` or `name`, whatever their case."""
    text: Annotated[tuple[str, ...] | None, BeforeValidator(_sources)] = None
    """Paths or templates, in order. Default: the first of `text`, `content`, `body` with text."""
    metadata: Annotated[dict[str, str] | None, BeforeValidator(_metadata)] = None
    """Name to path; a list of paths names each after itself. Default: all scalars left over."""
    content_type: Annotated[
        Literal["auto", "text", "markdown", "html", "pdf", "docx"] | ContentTypeField,
        BeforeValidator(_content_type),
    ] = "auto"
    include: dict[str, Any] | None = None
    """Only documents that match are indexed: the filter grammar of search, over their fields."""
    max_bytes: int = Field(default=DEFAULT_MAX_BYTES, gt=0)
    """A document with more content than this is rejected. Bytes, UTF-8."""
