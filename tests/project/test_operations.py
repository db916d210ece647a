"""docs/operations.md explains every failure by its code, and no other; messages name their code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline import errors, show
from syncline.errors import Misconfigured, PositionLost, SynclineError, see

ROOT = Path(__file__).parents[2]
PACKAGES = ("connectors", "flows", "models", "retriever", "syncline", "transforms")
PAGE = (ROOT / "docs/operations.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
LOUD = ("warning", "error", "exception", "critical")


def calls() -> Iterator[ast.Call]:
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield node


def events() -> Iterator[str]:
    """Of every log line that calls for attention."""
    for call in calls():
        if ast.unparse(call.func) in [f"_log.{level}" for level in LOUD]:
            assert isinstance(call.args[0], ast.Constant), ast.unparse(call)
            yield str(call.args[0].value)


def codes() -> Iterator[str]:
    """Of every class of error, and those that single errors have."""
    yield from (kind.code for kind in vars(errors).values() if isinstance(kind, type))  # type: ignore[attr-defined]
    yield Misconfigured("problem", "remedy").code
    for call in calls():
        for keyword in call.keywords:
            if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                yield str(keyword.value.value)


def test_every_failure_has_a_section_and_every_section_a_failure() -> None:
    """The codes of errors and log events are the headings, each once."""
    headings = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted({*events(), *codes()})


def test_every_section_says_what_to_do() -> None:
    """First what it means, then a paragraph that begins with `Do:`."""
    assert len(SECTIONS) >= 30
    for code, text in SECTIONS.items():
        assert re.match(r"(?!Do:).+?\n\nDo: .", text, re.DOTALL), code


@pytest.mark.parametrize("error", [Misconfigured("p", "r", "index_foreign"), PositionLost("gone")])
def test_an_error_prints_its_section(
    error: SynclineError, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the command line shows it; in the text itself where a remedy stands."""
    show.problem(str(error), None, code=error.code)
    assert see(error.code) in " ".join(capsys.readouterr().err.split())
    if isinstance(error, Misconfigured):
        assert str(error).endswith(f"remedy: r\n  see: {see('index_foreign')}")


def test_a_log_line_names_its_section() -> None:
    """Warnings do; what is only told does not."""
    program = (
        "import structlog; from syncline.logs import configure_logging;"
        "configure_logging('info', as_json=True); log = structlog.get_logger();"
        "log.warning('drift_found', missing=1); log.info('wait_is_over')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    warning, info = (json.loads(line) for line in done.stderr.splitlines())
    assert warning["see"] == see("drift_found")
    assert "see" not in info
