"""`syncline demo`: a guided tour of a real run, on data of its own, that ends by itself."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule

from syncline import show
from syncline.client import Client
from syncline.errors import Unavailable
from syncline.running import running
from syncline.sample import sample_documents

WAIT_SECONDS = 900.0
"""Longest wait for the backfill: a slow laptop embeds ten chunks a second."""
_QUESTIONS = (
    "how do I catch an exception and clean up afterwards",
    "validate data with type hints",
    "what is a decorator",
)


def run(data_dir: Path | None) -> int:
    """Run the tour; the exit code: 0 if the index was in sync at its end."""
    with contextlib.ExitStack() as stack:
        directory = data_dir or Path(stack.enter_context(_scratch()))
        show.out.print(Rule("Syncline: a guided tour"))
        facts = stack.enter_context(running(directory))
        client = stack.enter_context(Client(facts["http"], timeout_seconds=60))
        mongo: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(facts["mongo"]))
        database = mongo["syncline"]
        _backfill(database, client)
        _edits(database, client)
        _queries(client)
        return _verify(client)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="syncline-demo-", ignore_cleanup_errors=True)


def _backfill(database: Any, client: Client) -> None:
    documents = list(sample_documents())
    show.out.print(
        f"\n[bold]1. Load[/] {len(documents)} documents into MongoDB and watch them arrive"
    )
    for collection in sorted({name for name, _ in documents}):
        database[collection].insert_many([d for name, d in documents if name == collection])
    started = time.monotonic()
    columns = (
        TextColumn("   indexed"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=show.out) as bar:
        task = bar.add_task("", total=len(documents), rate="")
        while True:
            facts = client.status()
            done = sum(facts["documents"][state] for state in ("indexed", "failed"))
            rate = facts["embedded_total"] / max(0.001, time.monotonic() - started)
            text = (
                f"{done}/{len(documents)} documents, {facts['embedded_total']} chunks, {rate:.0f}/s"
            )
            bar.update(task, completed=done, rate=text)
            if done >= len(documents) and facts["pending"] == 0:
                break
            if time.monotonic() - started > WAIT_SECONDS:
                raise Unavailable("syncline", f"the backfill is not done: {facts}")
            time.sleep(0.25)
    show.out.print(f"   {text}")


def _edits(database: Any, client: Client) -> None:
    show.out.print(
        "\n[bold]2. Change things[/]: from MongoDB's acknowledgement until search shows it"
    )
    notes = database["notes"]
    body = [
        f"Paragraph {n} is about a lighthouse keeper and his log, night {n}." for n in range(400)
    ]
    long = {"_id": "log", "title": "The log", "text": "\n\n".join(body), "tags": ["sea"]}

    def text_found(word: str) -> Callable[[], bool]:
        return lambda: any(
            word in hit["text"] for hit in _hits(client, word, {"collection": "notes"}, "sparse")
        )

    _timed(
        client, "insert a long document", lambda: notes.insert_one(long), text_found("lighthouse")
    )
    body[200] = "On this night a zeppelin passed over the lighthouse."
    edit = {"$set": {"text": "\n\n".join(body)}}
    _timed(
        client,
        "edit one of its 400 paragraphs",
        lambda: notes.update_one({"_id": "log"}, edit),
        text_found("zeppelin"),
    )
    _timed(
        client,
        "edit only a tag",
        lambda: notes.update_one({"_id": "log"}, {"$set": {"tags": ["sea", "reviewed"]}}),
        lambda: bool(_hits(client, "lighthouse", {"tags": "reviewed"})),
    )
    _timed(
        client,
        "insert a short document",
        lambda: notes.insert_one(
            {"_id": "tea", "title": "Tea", "text": "Steep oolong for 3 minutes."}
        ),
        text_found("oolong"),
    )
    _timed(
        client,
        "delete the long document",
        lambda: notes.delete_one({"_id": "log"}),
        lambda: not _hits(client, "lighthouse", {"collection": "notes", "document_id": "log"}),
    )
    _timed(
        client,
        "drop the collection",
        notes.drop,
        lambda: not _hits(client, "oolong", {"collection": "notes"}),
    )


def _timed(client: Client, what: str, write: Callable[[], Any], seen: Callable[[], bool]) -> None:
    before = client.status()["embedded_total"]
    write()
    started = time.perf_counter()
    while not seen():
        if time.perf_counter() - started > 120:
            raise Unavailable("syncline", f"not seen after 120 s: {what}")
    seconds = time.perf_counter() - started
    embedded = client.status()["embedded_total"] - before
    show.out.print(f"   {what:<34} {seconds * 1000:8.1f} ms   {embedded:3d} chunks embedded")


def _hits(client: Client, query: str, where: dict[str, Any], mode: str = "hybrid") -> list[Any]:
    hits: list[Any] = client.search(query, limit=3, filter=where, mode=mode)["hits"]
    return hits


def _queries(client: Client) -> None:
    show.out.print("\n[bold]3. Ask[/]")
    for question in _QUESTIONS:
        show.out.print(f"\n[bold cyan]? {question}[/]")
        show.hits(client.search(question, limit=2))


def _verify(client: Client) -> int:
    show.out.print("\n[bold]4. Verify[/]: chunk everything again and compare with the index")
    report = client.verify(deep=True, repair=False)
    show.verified(report)
    return 0 if report["in_sync"] else 1
