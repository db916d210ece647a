"""Whether throughput grows with replicas: one index process, then several, over one waiting topic.

    python -m benchmarks.scale [--documents 4000] [--replicas 2]

Capture publishes everything first; then only the index processes run, with the hash embedder, so
that cleaning, chunking, planning and writing are measured and no model. The ratio is between two
runs of one call on one machine. The rate is taken between the first tenth of the documents and
the last twentieth, which leaves out how processes start and how the last partitions end.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.corpus import real_documents
from benchmarks.parts import configuration, local_mongo
from connectors.index import Index
from connectors.store_server import StoreServer
from syncline.assemble import open_index
from syncline.child import Child
from syncline.children import Children
from syncline.local.pulsar import start_pulsar

RESULTS = Path(__file__).parent / "results"
MODEL = "hash:384"
FIRST, LAST = 0.1, 0.95
PATIENCE_SECONDS = 600.0


def main() -> int:
    """Measure, print, and write JSON by date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], options.replicas: []}
    for _ in range(options.rounds):
        for replicas, found in rates.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
                found.append(_rate(Path(name), options.documents, replicas))
            print(f"{replicas} replicas: {found[-1]:.0f} documents/s", file=sys.stderr, flush=True)
    best = {replicas: max(found) for replicas, found in rates.items()}
    figures = {
        "date": datetime.date.today().isoformat(),
        "documents": options.documents,
        "documents_per_second": {str(n): found for n, found in rates.items()},
        "ratio": best[options.replicas] / best[1],
    }
    print(json.dumps(figures, indent=1))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{figures['date']}-scale.json"
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _rate(scratch: Path, documents: int, replicas: int) -> float:
    """Documents a second that `replicas` index processes take from a topic where all wait."""
    config = configuration(scratch / "owner", MODEL)
    with contextlib.ExitStack() as stack:
        uri, database = stack.enter_context(local_mongo(scratch))
        pool = cycle(real_documents())
        rows = ({**d, "_id": n} for n, d in enumerate(islice(pool, documents)))
        database["bench"].insert_many(rows)
        broker = start_pulsar(scratch / "pulsar")
        stack.callback(broker.stop)
        index = open_index(config)
        stack.callback(index.store.close)
        socket = scratch / "store"
        server = StoreServer(index.store, socket)
        server.start()
        stack.callback(server.stop)
        environment = {
            "SYNCLINE_MONGO_URI": uri,
            "SYNCLINE_PULSAR_URL": broker.url,
            "SYNCLINE_PULSAR_PLAIN_TOPICS": "true",
            "SYNCLINE_QDRANT_URL": f"unix://{socket}",
            "SYNCLINE_EMBEDDER_MODEL": MODEL,
            "SYNCLINE_HTTP_PORT": "0",
        }
        with Children(
            [Child("capture", lambda: ["capture"], environment, scratch / "c")]
        ) as capture:
            _until(lambda: _has_published(capture.all[0].status()))
        with Children([*_replicas(environment, scratch, replicas)]):
            started = _until(lambda: _indexed(index) >= FIRST * documents)
            before = _indexed(index)
            ended = _until(lambda: _indexed(index) >= LAST * documents)
            return (_indexed(index) - before) / (ended - started)


def _replicas(environment: dict[str, str], scratch: Path, replicas: int) -> Iterator[Child]:
    for n in range(replicas):
        place = {"SYNCLINE_PULSAR_REPLICA": str(n), "SYNCLINE_PULSAR_REPLICAS": str(replicas)}
        yield Child(
            f"index-{n}", lambda: ["index"], {**environment, **place}, scratch / f"index-{n}"
        )


def _has_published(status: Mapping[str, Any]) -> bool:
    return (status.get("state"), status.get("pending")) == ("streaming", 0)


def _indexed(index: Index) -> int:
    return index.counts().indexed if index.store.exists() else 0


def _until(condition: Callable[[], bool]) -> float:
    """Wait; the time at which it held."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError("the processes did not get on")
        time.sleep(0.1)
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
