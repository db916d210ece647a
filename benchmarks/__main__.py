"""`make bench`: throughput, freshness, chunking and resync; a table, and JSON by date."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import freshness, throughput

RESULTS = Path(__file__).parent / "results"
_out = Console()


def main() -> int:
    """Measure one after the other: two at once would measure each other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    figures: dict[str, Any] = {"date": datetime.date.today().isoformat(), **_machine()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        _say("chunking the corpus, bare model")
        inputs = throughput.chunk_inputs()
        rates = [throughput.bare(inputs)]
        _say(f"{rates[0]}\nbackfill")
        figures["backfill"] = throughput.backfill(scratch / "backfill")
        _say(f"{figures['backfill']}")
        _say("bare model again")
        rates.append(throughput.bare(inputs))
        figures["bare"] = rates
        _say("freshness")
        figures["freshness"] = freshness.measure(scratch / "freshness")
        _say(f"{figures['freshness']}\nresync")
        figures["resync"] = throughput.resync(scratch / "resync")
    name_, rate = throughput.best(rates)
    figures["best_bare"] = {"how": name_, "chunks_per_second": rate}
    figures["backfill"]["of_best_bare"] = figures["backfill"]["chunks_per_second"] / rate
    _table(figures)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{figures['date']}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    _say(f"written to {path}")
    return 0


def _machine() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }


def _table(figures: dict[str, Any]) -> None:
    table = Table("what", "figure", "target")
    for rates in figures["bare"]:
        for name, rate in rates.items():
            table.add_row(f"bare encode, {name}", f"{rate:.1f} chunks/s", "")
    fill = figures["backfill"]
    table.add_row(
        f"backfill of {fill['documents']} documents",
        f"{fill['chunks_per_second']:.1f} chunks/s = {fill['of_best_bare']:.2f} of the best bare",
        "0.8",
    )
    for name, row in figures["freshness"].items():
        text = f"median {row['median_ms']:.1f} ms, p95 {row['p95_ms']:.1f} ms"
        table.add_row(name, f"{text}, {row['chunks']:.1f} chunks", "")
    edit = figures["freshness"]["paragraph edit"]["median_ms"]
    alone = figures["freshness"]["embedding alone"]["median_ms"]
    table.add_row("paragraph edit beyond its embedding", f"{edit - alone:.1f} ms", "50 ms")
    again = figures["resync"]
    text = f"{again['documents_per_second']:.0f} documents/s, {again['embedded']} embedded"
    table.add_row(f"resync of {again['documents']} unchanged", text, "1,000 and 0")
    _out.print(table)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
