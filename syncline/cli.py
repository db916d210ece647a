"""The command line. Results on stdout, everything else on stderr; `--json` where a script reads.

Exit codes: 0 fine, 1 drift or a failed check, 2 bad usage or configuration, 3 it could not be
done: a service does not answer, or a fault of ours. So 1 always means that something was checked.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from syncline import __version__, show
from syncline.errors import Misconfigured, SynclineError
from syncline.logs import configure_logging
from syncline.runtime import claim
from syncline.settings import Configuration, load_settings

app = typer.Typer(
    name="syncline",
    help="Keeps a Qdrant vector index in line with a MongoDB database, and serves search from it.",
    epilog="Exit codes: 0 fine, 1 drift or a failed check, 2 bad usage or configuration, "
    "3 not done, because a service does not answer (or by a fault of Syncline's own).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file. Default: syncline.toml, if there is one."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the local parts keep their data (.syncline)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of a running Syncline. Default: the one of the data dir."),
]
HttpPort = Annotated[
    int | None,
    typer.Option("--http-port", help="Port of the HTTP service; 0 picks a free one."),
]
MongoPort = Annotated[
    int | None,
    typer.Option("--mongo-port", help="Port of the local MongoDB; 0 picks a free one."),
]
WithPulsar = Annotated[
    bool,
    typer.Option("--with-pulsar", help="Capture and index as processes with a broker between."),
]
OnLostHistory = Annotated[
    Literal["snapshot", "fail"] | None,
    typer.Option(
        "--on-lost-history",
        help="When MongoDB no longer has the changes from our position on: read everything again "
        "(snapshot), or stop (fail). Default: mongo.on_lost_history.",
    ),
]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]


@app.command()
def up(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    mongo_port: MongoPort = None,
    http_port: HttpPort = None,
    with_pulsar: WithPulsar = False,
    replicas: Annotated[
        int, typer.Option(min=1, max=64, help="Index processes, with --with-pulsar.")
    ] = 1,
    on_lost_history: OnLostHistory = None,
    log_level: LogLevel = "warning",
) -> None:
    """Run everything here: local parts where no URL is set, the flow, and the retriever."""
    settings = _settings(config, data_dir, mongo_port, http_port, on_lost_history)
    configure_logging(log_level)
    with claim(settings.local.data_dir):
        from syncline.topology import up_with_pulsar
        from syncline.up import up as up_directly

        show.starting(settings)
        distributed = partial(up_with_pulsar, replicas=replicas, config_file=config)
        reload = partial(_settings, config, data_dir, mongo_port, http_port)
        run = distributed if with_pulsar else partial(up_directly, reload=reload)
        run(settings, on_ready=_announce(show.up_is_ready, settings))


@app.command()
def sync(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    http_port: HttpPort = None,
    on_lost_history: OnLostHistory = None,
    log_level: LogLevel = "warning",
) -> None:
    """Run the flow alone: keep a Qdrant server in line with MongoDB."""
    from syncline.services import sync as run

    configure_logging(log_level)
    settings = _settings(config, data_dir, None, http_port, on_lost_history)
    show.starting(settings)
    run(settings, on_ready=_announce(show.sync_is_ready, settings))


@app.command()
def serve(
    config: ConfigFile = None, http_port: HttpPort = None, log_level: LogLevel = "warning"
) -> None:
    """Run the retriever alone, over a Qdrant server that a flow keeps in line."""
    from syncline.services import serve as run

    configure_logging(log_level)
    settings = _settings(config, None, None, http_port)
    show.starting(settings)
    run(settings, on_ready=_announce(show.serve_is_ready, settings))


@app.command()
def capture(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    http_port: HttpPort = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Publish every document once more first.")
    ] = False,
    on_lost_history: OnLostHistory = None,
    log_level: LogLevel = "warning",
) -> None:
    """Publish MongoDB's changes to a Pulsar topic. One runs; a second one stands by.

    --snapshot publishes every document once more: for an index that is new, or restored from a
    backup, on a subscription that is older. Nothing unchanged is embedded again.
    """
    from syncline.services import capture as run

    configure_logging(log_level)
    settings = _settings(config, data_dir, None, http_port, on_lost_history)
    run(settings, on_ready=_announce(show.capture_is_ready, settings), snapshot=snapshot)


@app.command()
def index(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    http_port: HttpPort = None,
    log_level: LogLevel = "warning",
) -> None:
    """Keep a Qdrant server in line with a Pulsar topic. As many replicas run as are wanted."""
    from syncline.services import index as run

    configure_logging(log_level)
    settings = _settings(config, data_dir, None, http_port)
    show.starting(settings)
    run(settings, on_ready=_announce(show.index_is_ready, settings))


@app.command()
def load(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="JSONL, Markdown, text and HTML files, or directories of them."),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Python's reference and installed packages' READMEs.")
    ] = False,
    collection: Annotated[str, typer.Option(help="Collection that files go to.")] = "documents",
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put documents into MongoDB. What is there already and equal is left alone."""
    from syncline.loading import load_files, load_sample

    if not paths and not sample:
        raise typer.BadParameter("name files or directories, or give --sample")
    settings = _settings(config, data_dir, None, None)
    configure_logging()
    reports = load_sample(settings) if sample else []
    if paths:
        reports.append(load_files(settings, paths, collection))
    for report in reports:
        show.loaded(report, as_json=as_json)
    if any(report.problem_count for report in reports):
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="1 to 100.")] = 5,
    mode: Annotated[str, typer.Option(help="hybrid, dense or sparse.")] = "hybrid",
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help='As JSON: {"field": value | [values] | {"gte": ...}}.'),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(help="Wait until all written up to this cluster time, s.i, is searchable."),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Search the index of a running Syncline."""
    from syncline.client import connect

    asked = {"limit": limit, "mode": mode, "filter": _filter(filter_), "after": after}
    with connect(_settings(config, data_dir, None, None), url) as client:
        answer = client.search(query, **asked)
    _print_json(answer) if as_json else show.hits(answer)


@app.command()
def status(
    failed: Annotated[
        bool, typer.Option("--failed", help="List documents that could not be indexed.")
    ] = False,
    limit: Annotated[int, typer.Option(help="How many to list.")] = 100,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """What the index holds and how far it is behind the database."""
    from syncline.client import connect

    with connect(_settings(config, data_dir, None, None), url) as client:
        if failed:
            documents = client.failed(limit)
            _print_json(documents) if as_json else show.failures(documents)
        else:
            facts = client.status()
            _print_json(facts) if as_json else show.status(facts)


@app.command()
def verify(
    deep: Annotated[bool, typer.Option("--deep", help="Chunk again and compare ids.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Fix what differs.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Once in sync, forget messages that were unreadable.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Whether the index equals the database, also while both move.

    Exit codes: 0 in sync, 1 drift, 2 bad usage or configuration, 3 could not be compared,
    because a service does not answer.
    """
    from syncline.verification import verify_anywhere

    configure_logging()
    settings = _settings(config, data_dir, None, None)
    report = verify_anywhere(settings, url=url, deep=deep, repair=repair, forget=forget)
    _print_json(report) if as_json else show.verified(report)
    if not report["in_sync"]:
        raise typer.Exit(1)


@app.command()
def reindex(
    status: Annotated[
        bool, typer.Option("--status", help="Only tell which index serves, and what is built.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Stop what is being built, and remove it.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
    log_level: LogLevel = "error",
) -> None:
    """Build the index anew if the settings ask for another one, while the old one serves.

    A running Syncline reads its settings again and builds it; Ctrl-C only ends the watching.
    Without one it is built here; what Ctrl-C interrupts, the next start goes on with.
    """
    from syncline import reindexing

    configure_logging(log_level)
    settings = _settings(config, data_dir, None, None)
    do = reindexing.reindex_anywhere
    if status or abandon:
        do = reindexing.abandon_anywhere if abandon else reindexing.status_anywhere
    try:
        facts = do(settings, url=url)
    except KeyboardInterrupt:
        show.not_awaited()
        raise typer.Exit(130) from None
    _print_json(facts) if as_json else show.indexes(facts)


@app.command()
def doctor(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check settings, services and the model, and say what to do about what is wrong."""
    from syncline.doctor import examine

    configure_logging("error")
    checks = examine(lambda: _settings(config, data_dir, None, None))
    _print_json(checks) if as_json else show.checks(checks)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


@app.command()
def demo(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Keep the data here. Default: a temporary directory."),
    ] = None,
    with_pulsar: WithPulsar = False,
) -> None:
    """A guided tour that ends by itself: load, edit, delete, search, verify."""
    from syncline.demo import run

    raise typer.Exit(run(data_dir, *(["--with-pulsar"] if with_pulsar else [])))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: errors made for people, no tracebacks for a user's mistake."""
    faulthandler.enable()  # native code that crashes leaves at least its place
    try:
        app()
    except SystemExit as end:
        _leave(end.code)
    except Misconfigured as error:
        show.problem(error.problem, error.remedy, code=error.code)
        _leave(2)
    except SynclineError as error:
        show.problem(str(error), None, code=error.code)
        _leave(3)
    except OSError as error:
        what = f"{error.filename or 'the system'}: {error.strerror or error}"
        show.problem(what, _OS_REMEDY, code="file_refused")
        _leave(2)
    except Exception:
        # Python's own exit code for it is 1, which a script would take for drift.
        traceback.print_exc()
        _leave(3)


def _leave(code: str | int | None) -> NoReturn:
    """End. A flow that was too slow to stop is within native code, under which the interpreter
    cannot be taken down: it would abort, and the exit code be lost."""
    if any(thread.name.startswith("syncline-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 0)
    sys.exit(code)


_OS_REMEDY = "name another path (--data-dir), or correct its kind and its rights"


def _settings(
    config: Path | None,
    data_dir: Path | None,
    mongo_port: int | None,
    http_port: int | None,
    on_lost_history: Literal["snapshot", "fail"] | None = None,
) -> Configuration:
    return load_settings(
        config,
        mongo={"on_lost_history": on_lost_history},
        local={"data_dir": data_dir, "mongo_port": mongo_port},
        http={"port": http_port},
    )


def _announce(
    tell: Callable[[Configuration, Mapping[str, Any]], None], settings: Configuration
) -> Callable[[Mapping[str, Any]], None]:
    def announce(facts: Mapping[str, Any]) -> None:
        tell(settings, facts)
        print(json.dumps(facts), flush=True)

    return announce


def _filter(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"--filter is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("--filter must be a JSON object")
    return value


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
