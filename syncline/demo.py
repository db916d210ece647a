"""`syncline demo`: a guided tour of a real run, on data of its own, that ends by itself."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
WATERMARK_SECONDS = 15.0
_QUESTIONS = (
    "how do I catch an exception and clean up afterwards",
    "validate data with type hints",
    "what is a decorator",
)


class _Step(NamedTuple):
    """A write, and whether search shows it."""

    what: str
    write: Callable[[], Any]
    is_seen: Callable[[], bool]


def run(data_dir: Path | None, *options: str) -> int:
    """Run the tour through `syncline up <options>`; 0 if the index was in sync at its end."""
    with contextlib.ExitStack() as stack:
        directory = data_dir or Path(stack.enter_context(_scratch()))
        show.out.print(Rule("Syncline: a guided tour"))
        facts = stack.enter_context(running(directory, *options))
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
    for step in _steps(database["notes"], client):
        _timed(client, step)


def _steps(notes: Any, client: Client) -> Iterator[_Step]:
    nights = [f"Paragraph {n} is about a lighthouse keeper, night {n}." for n in range(400)]
    log = {"_id": "log", "title": "The log", "text": "\n\n".join(nights), "tags": ["sea"]}
    tea = {"_id": "tea", "title": "Tea", "text": "Steep oolong for 3 minutes."}
    nights[200] = "On this night a zeppelin passed over the lighthouse."
    new_text, new_tags = {"text": "\n\n".join(nights)}, {"tags": ["sea", "reviewed"]}

    def edit(fields: dict[str, Any]) -> Callable[[], Any]:
        return lambda: notes.update_one({"_id": "log"}, {"$set": fields})

    def found(word: str, **where: str) -> Callable[[], bool]:
        return lambda: _finds(client, word, {"collection": "notes", **where})

    def gone(word: str) -> Callable[[], bool]:
        return lambda: not _finds(client, word, {"collection": "notes"})

    yield _Step("insert a long document", lambda: notes.insert_one(log), found("lighthouse"))
    yield _Step("edit one of its 400 paragraphs", edit(new_text), found("zeppelin"))
    yield _Step("edit only a tag", edit(new_tags), found("lighthouse", tags="reviewed"))
    yield _Step("insert a short document", lambda: notes.insert_one(tea), found("oolong"))
    yield _Step(
        "delete the long document", lambda: notes.delete_one({"_id": "log"}), gone("lighthouse")
    )
    yield _Step("drop the collection", notes.drop, gone("oolong"))


def _timed(client: Client, step: _Step) -> None:
    before = client.status()["embedded_total"]
    step.write()
    started = time.perf_counter()
    while not step.is_seen():
        if time.perf_counter() - started > 120:
            raise Unavailable("syncline", f"not seen after 120 s: {step.what}")
    seconds = time.perf_counter() - started
    embedded = client.status()["embedded_total"] - before
    show.out.print(f"   {step.what:<34} {seconds * 1000:8.1f} ms   {embedded:3d} chunks embedded")


def _finds(client: Client, word: str, where: dict[str, Any]) -> bool:
    """Whether a keyword search, which leaves the model to the flow, shows the word."""
    hits = client.search(word, limit=3, filter=where, mode="sparse")["hits"]
    return any(word in hit["text"] for hit in hits)


def _queries(client: Client) -> None:
    show.out.print("\n[bold]3. Ask[/]")
    _wait_for_watermark(client)
    for question in _QUESTIONS:
        show.out.print(f"\n[bold cyan]? {question}[/]")
        show.hits(client.search(question, limit=2))


def _wait_for_watermark(client: Client) -> None:
    """Over Pulsar a drop leaves the answers without `as_of` until all partitions have passed it."""
    until = time.monotonic() + WATERMARK_SECONDS
    while client.status()["watermark"] is None and time.monotonic() < until:
        time.sleep(0.1)


def _verify(client: Client) -> int:
    show.out.print("\n[bold]4. Verify[/]: chunk everything again and compare with the index")
    report = client.verify(deep=True, repair=False)
    show.verified(report)
    return 0 if report["in_sync"] else 1
