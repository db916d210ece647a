"""What people see: everything the command line prints that is not JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from syncline.errors import see
from syncline.settings import Configuration

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def problem(text: str, remedy: str | None, *, code: str) -> None:
    """An error, with what to do about it, and where more is said."""
    err.print(f"[bold red]error[/]: {escape(text)}", soft_wrap=True)
    if remedy:
        err.print(f"[bold]remedy[/]: {escape(remedy)}", soft_wrap=True)
    err.print(f"[bold]see[/]: {see(code)}", soft_wrap=True)


def starting(settings: Configuration) -> None:
    """Said before the slow part of a start, the model's loading."""
    err.print(f"syncline: loading {escape(settings.embedder.model)} ...")


def up_is_ready(settings: Configuration, facts: Mapping[str, Any]) -> None:
    """How to write to it and how to search it."""
    mongo, http, database = facts["mongo"], facts["http"], settings.mongo.database
    data_dir = settings.local.data_dir
    note = '{"_id": "tea", "title": "Tea", "text": "Steep for three minutes."}'
    shell = '{_id: "tea", text: "Steep it."}'
    body = '{"query": "tea"}'
    json_type = "-H 'content-type: application/json'"
    lines = f"""
[bold green]Syncline is up.[/] All of the database [bold]{database}[/] is kept in the index.

[bold]write[/]   PyMongo   from pymongo import MongoClient
                  db = MongoClient("{mongo}")["{database}"]
                  db.notes.insert_one({note})
        mongosh   mongosh "{mongo.rstrip("/")}/{database}" --eval 'db.notes.insertOne({shell})'
        files     syncline load --sample --data-dir {data_dir}
[bold]search[/]  browser   {http}/
        curl      curl -s {http}/v1/search {json_type} -d '{body}'
        shell     syncline search tea --data-dir {data_dir}
[bold]check[/]             syncline status --data-dir {data_dir}
                  syncline verify --data-dir {data_dir}
[bold]stop[/]              Ctrl-C
"""
    err.print(lines, soft_wrap=True, markup=True)


def sync_is_ready(settings: Configuration, facts: Mapping[str, Any]) -> None:
    """The flow runs."""
    err.print(f"syncline: keeping {settings.qdrant.collection} in line, probes at {facts['http']}")


def capture_is_ready(settings: Configuration, facts: Mapping[str, Any]) -> None:
    """Changes are published."""
    err.print(f"syncline: publishing to {settings.pulsar.topic}, probes at {facts['http']}")


def index_is_ready(settings: Configuration, facts: Mapping[str, Any]) -> None:
    """Changes are consumed."""
    err.print(
        f"syncline: keeping {settings.qdrant.collection} in line with {settings.pulsar.topic}, "
        f"probes at {facts['http']}"
    )


def serve_is_ready(settings: Configuration, facts: Mapping[str, Any]) -> None:
    """The retriever listens."""
    err.print(f"syncline: serving {settings.qdrant.collection} at {facts['http']}")


def loaded(report: Any, *, as_json: bool) -> None:
    """What `load` did."""
    if as_json:
        out.print_json(data=report.model_dump(mode="json"))
        return
    err.print(
        f"loaded into {escape(report.target)}: {report.written} written, "
        f"{report.unchanged} unchanged, {report.problem_count} problems"
    )
    for line in report.problems:
        err.print(f"  [red]{escape(str(line))}[/]", soft_wrap=True)


def hits(answer: Mapping[str, Any]) -> None:
    """A search's answer."""
    for number, hit in enumerate(answer["hits"], 1):
        title = hit["title"] or hit["document_id"]
        place = f"{hit['collection']}/{hit['document_id']} #{hit['position']}"
        out.print(
            f"[bold]{number}. {escape(title)}[/]  [dim]{escape(place)}  {hit['score']:.4f}[/]"
        )
        text = textwrap.shorten(" ".join(hit["text"].split()), 240, placeholder=" ...")
        out.print(textwrap.indent(textwrap.fill(text, 92), "   "), markup=False)
    if not answer["hits"]:
        out.print("nothing found")
    out.print(f"[dim]as of {answer['as_of']}, {answer['took_ms']:.1f} ms[/]")


def status(facts: Mapping[str, Any]) -> None:
    """The state of the index."""
    documents = facts["documents"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("state", str(facts["state"]))
    if serving := facts.get("serving"):
        table.add_row("index", _index(serving))
    table.add_row("documents", ", ".join(f"{documents[k]} {k}" for k in documents))
    table.add_row("chunks", str(facts["chunks"]))
    table.add_row("watermark", str(facts["watermark"]))
    for name in ("lag_seconds", "pending", "embedded_total", "skipped_total"):
        if name in facts:
            table.add_row(name.replace("_", " "), str(facts[name]))
    for service, reason in facts.get("waiting_for", {}).items():
        table.add_row("waiting for", f"{service}: {reason}")
    if building := facts.get("building"):
        how = building["error"] or f"{building['documents']['indexed']} documents"
        table.add_row("building", f"{_index(building)}: {building['state']}, {escape(how)}")
    for name, progress in facts.get("backfill", {}).items():
        table.add_row("backfill", f"{name}: {progress['done']} of about {progress['of']}")
    for warning in facts.get("warnings", ()):
        table.add_row("warning", escape(warning))
    checked = (facts.get("verify") or {}).get("last")
    if checked:
        found = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in checked["counts"].items())
        table.add_row("verified", f"{checked['at']}: {found or 'in sync'}")
    out.print(table)


def indexes(facts: Mapping[str, Any]) -> None:
    """Which index serves, and which others there are."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("serving", _index(facts["serving"]))
    if building := facts.get("building"):
        indexed = building["documents"]["indexed"]
        table.add_row(building["state"], f"{_index(building)}: {indexed} documents")
        if building["error"]:
            table.add_row("error", escape(building["error"]))
    for index in facts.get("unfinished", ()):
        table.add_row("unfinished", _index(index))
    for index in facts["retired"]:
        table.add_row("retired", escape(index) if isinstance(index, str) else _index(index))
    out.print(table)


def _index(index: Mapping[str, Any] | None) -> str:
    if index is None:
        return "none"
    return escape(f"{index['collection']} ({index['model']}, {index['chunk_tokens']} tokens)")


def not_awaited() -> None:
    """The watching was interrupted, not what was watched."""
    err.print(
        "not awaited: a running Syncline goes on building (`syncline reindex --status`, "
        "`--abandon`); else the next start does"
    )


def failures(documents: Sequence[Mapping[str, Any]]) -> None:
    """Documents that could not be indexed."""
    for document in documents:
        place = f"{document['collection']}/{document['document_id']}"
        out.print(f"[bold]{escape(place)}[/]  at {document['step']}: {escape(document['reason'])}")
    if not documents:
        out.print("no failed documents")


def verified(report: Mapping[str, Any]) -> None:
    """What `verify` found."""
    verdict = "[bold green]in sync[/]" if report["in_sync"] else "[bold red]drift[/]"
    depth = "deep, " if report["deep"] else ""
    out.print(
        f"{verdict}: {report['documents']} documents, {report['chunks']} chunks compared "
        f"({depth}{report['took_seconds']:.1f} s)"
    )
    for kind, count in report["counts"].items():
        out.print(f"  {count} {kind.replace('_', ' ')}")
    for example in report["examples"]:
        place = f"{example['collection']}/{example['document_id']}"
        out.print(f"    {example['kind']}: {escape(place)} {escape(example['detail'])}")
    if report["failed"]:
        out.print(f"  {report['failed']} documents failed: see `syncline status --failed`")
    if report["unread"]:
        out.print(
            f"  {report['unread']} messages could not be read: see `syncline status --failed`"
        )
    if report["repaired"]:
        out.print(f"  {report['repaired']} repaired")


def checks(found: Sequence[Mapping[str, Any]]) -> None:
    """What `doctor` found."""
    for check in found:
        mark = "[green]ok[/]  " if check["ok"] else "[red]FAIL[/]"
        out.print(f"{mark} {check['name']}: {escape(check['detail'])}", soft_wrap=True)
        if check.get("remedy"):
            out.print(f"     remedy: {escape(check['remedy'])}", soft_wrap=True)
        if check.get("see"):
            out.print(f"     see: {check['see']}", soft_wrap=True)
