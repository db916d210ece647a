"""The page at `/docs`: the OpenAPI document as plain HTML, which loads and runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from starlette.responses import HTMLResponse

from retriever.page import as_page

Schema = Mapping[str, Any]

_LIMITS = {"minimum": "at least", "maximum": "at most", "maxLength": "characters at most"}


def docs_page(openapi: Schema) -> HTMLResponse:
    """Every operation with its parameters, its body and its answers, and every schema."""
    title = escape(f"{openapi['info']['title']} {openapi['info']['version']}")
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [
        _schema(name, schema)
        for name, schema in sorted(openapi.get("components", {}).get("schemas", {}).items())
    ]
    return as_page(
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>For machines: <a href=/openapi.json>openapi.json</a>. "
        f"To search by hand: <a href=/>the page</a>.</p>"
        f"{''.join(operations)}<h2>Schemas</h2>{''.join(schemas)}</html>\n"
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    contents = operation.get("requestBody", {}).get("content", {}).values()
    bodies = " or ".join(_type(content.get("schema", {})) for content in contents)
    parameters = {one["name"]: one | one["schema"] for one in operation.get("parameters", ())}
    required = {name for name, one in parameters.items() if one.get("required")}
    answers = [
        (f"<code>{escape(status)}</code>", _answer(answer), escape(answer["description"]))
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<section><h3><code><b>{method}</b> {escape(path)}</code></h3>"
        f"<p>{_prose(operation.get('description', ''))}</p>"
        f"{_fields(parameters, required)}"
        f"{f'<p>Body: {bodies}</p>' if bodies else ''}"
        f"{_table(answers)}</section>"
    )


def _schema(name: str, schema: Schema) -> str:
    fields = _fields(schema.get("properties", {}), schema.get("required", ()))
    description = _prose(schema.get("description", ""))
    name = escape(name)
    return f"<section id='{name}'><h3>{name}</h3><p>{description}</p>{fields}</section>"


def _fields(fields: Mapping[str, Schema], required: Iterable[str]) -> str:
    return _table(
        (
            f"<code>{escape(name)}</code>",
            _type(field) + ("" if name in required else _default(field)),
            _prose(field.get("description", "")),
        )
        for name, field in fields.items()
    )


def _answer(answer: Schema) -> str:
    return ", ".join(
        _type(content["schema"])
        for content in answer.get("content", {}).values()
        if content.get("schema")
    )


def _type(schema: Schema) -> str:
    """A type as people write it, a named one as a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{words} {schema[key]:,.0f}" for key, words in _LIMITS.items() if key in schema]
    return escape(", ".join([schema.get("type", "any value"), *limits]))


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return ", optional" if default is None else f", default <code>{escape(str(default))}</code>"


def _prose(text: str) -> str:
    """Text in which `code` is marked."""
    parts = escape(text).split("`")
    marked = (f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
    return "".join(marked)


def _table(rows: Iterable[Iterable[str]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{font:.9em ui-monospace,monospace}section{border-top:1px solid #8884;margin:1.5rem 0}"
    "table{border-collapse:collapse}td{padding:.1rem 1.5rem .1rem 0;vertical-align:top}"
    ":root{color-scheme:light dark}"
)
