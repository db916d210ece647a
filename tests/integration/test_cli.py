"""A mistake at the command line: exit code 2, what is wrong, what to do, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.runtime import claim
from tests.brokers import Refusing


def syncline(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYNCLINE_EMBEDDER_MODEL": "hash:64", **variables}
    command = [sys.executable, "-m", "syncline", *words]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "PYTHONPATH": root},
    )


FLOWS = ("sync", "serve", "capture", "index")
FLOW = {"SYNCLINE_QDRANT_URL": "http://127.0.0.1:1", "SYNCLINE_PULSAR_URL": "pulsar://127.0.0.1:1"}
"""What none of them goes without."""


@pytest.mark.parametrize(
    ("words", "variables", "named"),
    [
        (["up", "--data-dir", "file"], {}, "file"),
        (["up", "--http-port", "99999"], {}, "http.port"),
        (["up"], {"SYNCLINE_MONGO_URI": "nonsense"}, "mongo.uri"),
        (["up"], {"SYNCLINE_MONGO_COLOUR": "red"}, "mongo.colour"),
        (["up"], {"SYNCLINE_EMBEDDER_DTYPE": "int3"}, "embedder.dtype"),
        (["up"], {"SYNCLINE_CHUNKER_MAX_TOKENS": "9999"}, "chunker.max_tokens"),
        (["up", "--config", "none.toml"], {}, "none.toml"),
        (["sync"], {}, "qdrant.url"),
        (["serve"], {}, "qdrant.url"),
        (["capture", "--http-port", "0"], {}, "Apache Pulsar"),
        (["index", "--http-port", "0"], {}, "Apache Pulsar"),
        (["index", "--http-port", "0"], {"SYNCLINE_PULSAR_URL": "pulsar://h:1"}, "qdrant.url"),
        (["capture"], {"SYNCLINE_PULSAR_URL": "http://h:1"}, "pulsar.url"),
        (["capture"], {"SYNCLINE_PULSAR_TOPIC": "short"}, "pulsar.topic"),
        (["verify", "--data-dir", "nothing"], {}, "nothing"),
        (["up"], {"SYNCLINE_HTTP_HOST": "0.0.0.0"}, "http.api_key"),
        *(([name], {"SYNCLINE_HTTP_HOST": "::", **FLOW}, "http.api_key") for name in FLOWS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_named(
    words: list[str], variables: dict[str, str], named: str, tmp_path: Path
) -> None:
    """The thing is named, with a remedy; exit code 2; nothing on stdout."""
    (tmp_path / "file").touch()
    ports = ["--mongo-port", "0", "--http-port", "0"] if words[0] == "up" else []
    done = syncline(words[0], *ports, *words[1:], cwd=tmp_path, **variables)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "remedy" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["verify", "--url", "http://127.0.0.1:1"], {}),
        (["verify", "--deep", "--json", "--url", "http://127.0.0.1:1"], {}),
        (["verify"], {"SYNCLINE_MONGO_URI": "mongodb://127.0.0.1:1/?replicaSet=rs0"}),
        (["search", "x", "--url", "http://127.0.0.1:1"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else ",".join(value),
)
def test_silence_is_no_drift(words: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    """What does not answer is named, with an exit code of its own, and no report."""
    (tmp_path / ".syncline" / "index").mkdir(parents=True)
    done = syncline(*words, cwd=tmp_path, **variables)
    assert done.returncode == 3, done.stderr
    assert "is unavailable" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_tells_the_exit_codes(tmp_path: Path) -> None:
    """Of the whole and of `verify`, whose 1 a script relies on."""
    for words in (["--help"], ["verify", "--help"]):
        told = " ".join(syncline(*words, cwd=tmp_path).stdout.split())
        assert "1 drift" in told
        assert "does not answer" in told


def test_a_second_up_is_refused(tmp_path: Path) -> None:
    """It names the process that uses the directory, whichever ports were asked for."""
    with claim(tmp_path):
        done = syncline("up", "--data-dir", str(tmp_path), "--http-port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert f"in use by process {os.getpid()}" in done.stderr
    assert "remedy" in done.stderr


@pytest.mark.parametrize("flow", ["capture", "index"])
def test_a_refused_token_ends_the_flow_at_once(flow: str, tmp_path: Path) -> None:
    """One clear error, exit code 2, and the token is not in it: no storm of tries."""
    with Refusing() as broker:
        done = syncline(
            *(flow, "--http-port", "0"),
            cwd=tmp_path,
            SYNCLINE_QDRANT_URL="http://127.0.0.1:1",
            SYNCLINE_PULSAR_URL=broker.url,
            SYNCLINE_PULSAR_TOKEN="sesame-secret",
        )
        tries = broker.connections
    assert done.returncode == 2, done.stderr
    assert "token" in done.stderr and "remedy" in done.stderr
    assert "sesame" not in done.stderr + done.stdout
    assert tries <= 2


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    """A connection string that cannot be read does not end up on the screen."""
    uri = "mongodb://user:pass/w0rd@host/"
    done = syncline("up", "--http-port", "0", cwd=tmp_path, SYNCLINE_MONGO_URI=uri)
    assert done.returncode == 2
    assert "w0rd" not in done.stderr + done.stdout
