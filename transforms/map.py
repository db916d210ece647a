"""From a MongoDB document to title, text and metadata, by its collection's rule. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bson.binary import BINARY_SUBTYPE

from models.conditions import Condition, holds
from models.filters import InvalidFilter, parse_filter
from models.ids import digest
from models.records import ContentType, Document, Part, Upsert
from syncline.errors import Misconfigured, Rejected
from syncline.rules import ContentTypeField, MappingRule, is_template
from transforms.fields import as_text, described, fill, look_up, place, without, wrong_type
from transforms.formats import type_of_bytes, type_of_name, type_of_text
from transforms.values import json_object, json_value, scalar

TITLE_FIELDS = ("title", "name")
TEXT_FIELDS = ("text", "content", "body")
MAX_TITLE = 1_000
"""Characters; a longer title is cut, for it is a label, and the text stays whole."""
MAX_METADATA = 65_536
"""Bytes as JSON: metadata is stored with every chunk."""


def map_document(change: Upsert, rule: MappingRule) -> Document | None:
    """The document that `rule` makes of `change`; None if it is not to be in the index.

    A document without text has no parts. Raises `Rejected` where there are values of a wrong
    type or too much of anything; its reason names the field, the value and the remedy.
    """
    fields = change.fields
    condition = _inclusion(rule)
    if condition is not None and not holds(condition, json_object(fields)):
        return None
    title_source = rule.title or _first_named(fields, TITLE_FIELDS, _is_title)
    text_sources = rule.text or _default_text(fields)
    parts = tuple(_parts(fields, text_sources, rule))
    _check_size(parts, rule.max_bytes)
    return Document(
        key=change.key,
        title=_title(fields, title_source),
        parts=parts,
        metadata=_metadata(fields, rule, (title_source or "", *text_sources)),
    )


def check_rule(collection: str, rule: MappingRule) -> None:
    """Raises `Misconfigured` if the rule's inclusion filter does not follow the grammar."""
    try:
        _inclusion(rule)
    except InvalidFilter as error:
        raise Misconfigured(
            f"mapping.{collection}.include: {error}",
            'write it as a search filter, e.g. include = { status = ["public", "beta"] }',
        ) from error


def content_digest(document: Document) -> str:
    """Equal digests mean equal chunks: of the title and every part, in order."""
    pieces: list[str | bytes] = [document.title]
    for part in document.parts:
        pieces += (part.content_type, part.content)
    return digest(*pieces)


def metadata_digest(document: Document) -> str:
    """Of what is stored beside each chunk: title, and metadata in any order of its names."""
    return digest(document.title, _canonical(document.metadata))


def _inclusion(rule: MappingRule) -> Condition | None:
    return None if rule.include is None else parse_filter(rule.include)


def _first_named(
    fields: Mapping[str, Any], names: tuple[str, ...], fits: Callable[[Any], bool]
) -> str | None:
    """The first of `names`, spelled so or else in any case, that has a fitting value."""
    folded = {name.casefold(): name for name in reversed(list(fields))}
    spellings = [*names, *(folded[name] for name in names if name in folded)]
    return next((s for s in spellings if s in fields and fits(fields[s])), None)


def _is_title(value: Any) -> bool:
    return scalar(value) not in (None, "")


def _title(fields: Mapping[str, Any], source: str | None) -> str:
    if source is None:
        return ""
    is_path = not is_template(source)
    title = as_text(look_up(fields, source), source) if is_path else fill(source, fields)
    return " ".join(title.split())[:MAX_TITLE]


# --- text ---------------------------------------------------------------------------------------


def _default_text(fields: Mapping[str, Any]) -> tuple[str, ...]:
    name = _first_named(fields, TEXT_FIELDS, _is_content)
    return () if name is None else (name,)


def _is_content(value: Any) -> bool:
    """Whether a value claims to be text, rightly or not. An object does only if it holds some."""
    match value:
        case None:
            return False
        case str() | bytes():
            return bool(value.strip())
        case Mapping():
            return _has_text(value)
        case list() | tuple():
            return _has_text(value) or any(scalar(item) not in (None, "") for item in value)
    return True


def _parts(
    fields: Mapping[str, Any], sources: tuple[str, ...], rule: MappingRule
) -> Iterator[Part]:
    declared = _declared_type(fields, rule)
    for source in sources:
        if is_template(source):
            contents: Iterator[str | bytes] = iter([fill(source, fields)])
        else:
            contents = _contents(look_up(fields, source), source)
        for content in contents:
            if content.strip():
                yield _part(content, source, declared)


def _contents(value: Any, field: str) -> Iterator[str | bytes]:
    """The texts in a value, one part each, so that an edit in one leaves the others as they are.

    In objects and lists only strings are text, and the rest is passed over; alone, or in a list
    that holds no text at all, it is refused.
    """
    match value:
        case None:
            return
        case str():
            yield str(value)
        case bytes() if getattr(value, "subtype", BINARY_SUBTYPE) == BINARY_SUBTYPE:
            yield bytes(value)
        case list() if not _has_text(value) and any(_is_title(item) for item in value):
            raise wrong_type(field, value, "text")
        case list() | tuple() | Mapping():
            yield from _strings(value)
        case _:
            raise wrong_type(field, value, "text")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _has_text(value: Any) -> bool:
    return any(text.strip() for text in _strings(value))


def _declared_type(fields: Mapping[str, Any], rule: MappingRule) -> ContentType | None:
    """What the rule, or the field it names, says; None leaves it to the content itself."""
    if not isinstance(rule.content_type, ContentTypeField):
        return None if rule.content_type == "auto" else rule.content_type
    field = rule.content_type.field
    name = look_up(fields, field)
    if name in (None, ""):
        return None
    known = type_of_name(name) if isinstance(name, str) else None
    if known is None:
        raise wrong_type(field, name, "a MIME type or extension of text, Markdown, HTML, PDF, DOCX")
    return known


def _part(content: str | bytes, field: str, declared: ContentType | None) -> Part:
    if isinstance(content, str):
        if declared in ("pdf", "docx"):
            raise wrong_type(field, content, f"binary data, as its content type is {declared}")
        return Part(content_type=declared or type_of_text(content), content=content)
    if declared in ("text", "markdown", "html"):
        return Part(content_type=declared, content=_decoded(content, field))
    found = declared or type_of_bytes(content)
    if found is None:
        raise wrong_type(field, content, "text, or binary data that is a PDF or DOCX file")
    return Part(content_type=found, content=content)


def _decoded(content: bytes, field: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected(
            "map",
            f'field "{field}" holds {described(content)} that are not UTF-8 '
            f"(byte {error.start:,}); store the text as a string, or in UTF-8",
        ) from error


def _check_size(parts: tuple[Part, ...], limit: int) -> None:
    size = sum(_size(part.content) for part in parts)
    if size > limit:
        raise Rejected(
            "map",
            f"{size:,} bytes of content are more than max_bytes = {limit:,}; "
            "raise max_bytes in the mapping of its collection, or map fewer fields",
        )


def _size(content: str | bytes) -> int:
    return len(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


# --- metadata -----------------------------------------------------------------------------------


def _metadata(
    fields: Mapping[str, Any], rule: MappingRule, used: tuple[str, ...]
) -> dict[str, Any]:
    if rule.metadata is None:
        for path in ("_id", *used):
            fields = without(fields, path)
        metadata = json_object(fields, bounded=True)
    else:
        metadata = {}
        for name, path in rule.metadata.items():
            value = json_value(look_up(fields, path))
            if value is not None:
                place(metadata, name, value)
    try:
        size = len(_canonical(metadata).encode())
    except UnicodeEncodeError as error:
        raise Rejected(
            "map", "a metadata field has a broken encoding (a lone surrogate); write it as UTF-8"
        ) from error
    if size > MAX_METADATA:
        raise Rejected(
            "map",
            f"{size:,} bytes of metadata are more than {MAX_METADATA:,}; "
            "list the fields to keep as metadata in the mapping of its collection",
        )
    return metadata


def _canonical(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
