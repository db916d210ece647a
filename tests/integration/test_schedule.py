"""`syncline up` compares index and database by itself."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest

from syncline.running import running
from tests.integration.test_scenarios import HASH, Running, eventually


def test_up_tells_of_drift_by_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last comparison is in the status and in the metrics, and a stop does not wait for it."""
    for name, value in {**HASH, "SYNCLINE_VERIFY_EVERY_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    with running(tmp_path) as facts, Running(facts, tmp_path) as app:
        app.db.notes.insert_many([{"_id": n, "text": f"note {n}"} for n in range(200)])
        app.settle()
        last = eventually(lambda: seen(app, 200))
        metrics = urlopen(f"{facts['http']}/metrics").read().decode()
    assert (last["in_sync"], last["orphaned_chunks"]) == (True, 0)
    assert "examples" not in last
    assert 'syncline_drift_documents{kind="missing"} 0.0' in metrics
    assert "ended by itself" not in (tmp_path / "up.log").read_text()


def seen(app: Running, documents: int) -> dict[str, object] | None:
    """The last comparison, once it has met so many documents."""
    last: dict[str, object] | None = app.http.status()["verify"]["last"]
    return last if last and int(str(last["documents"])) >= documents else None
