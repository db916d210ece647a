"""The gateway to Pulsar: errors, arguments, partitions, and the client's log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pulsar
import pytest
from structlog.testing import capture_logs

from connectors import pulsar_log
from connectors.pulsar import connect, partition_topics, translate, translated
from connectors.pulsar_log import ClientLog, log_pipe
from syncline.errors import Misconfigured, SynclineError, Unavailable

TOPIC = "persistent://public/default/t"

# Transactions are not used, nor are individual and cumulative acknowledgements mixed; an invalid
# message would be our own mistake.
NOT_OURS = {
    "CumulativeAcknowledgementNotAllowedError",
    "InvalidMessage",
    "InvalidTxnStatusError",
    "TransactionConflict",
    "TransactionCoordinatorNotFoundError",
    "TransactionNotFound",
}
CLASSES = {kind.__name__: kind for kind in pulsar.PulsarException.__subclasses__()}
RESULTS = {name for name in dir(pulsar.Result) if name[0].isupper()} - {"Ok"}


@pytest.mark.parametrize("name", sorted(set(CLASSES) - NOT_OURS))
def test_every_class_is_translated(name: str) -> None:
    """No class of the client's errors falls through to the bare base class."""
    assert type(translate(CLASSES[name]("text"))) is not SynclineError


def test_results_are_named_as_the_classes() -> None:
    """A callback's result and an exception lead to the same error."""
    assert set(CLASSES) == RESULTS
    for name in sorted(RESULTS - NOT_OURS):
        ours = type(translate(getattr(pulsar.Result, name)))
        assert ours is type(translate(CLASSES[name]("text")))


@pytest.mark.parametrize("name", ["AuthenticationError", "AuthorizationError"])
def test_refused_credentials_end_the_flow(name: str) -> None:
    """They are no outage: nobody waits and tries again, and the error says what to check."""
    with pytest.raises(Misconfigured, match=r"pulsar\.token") as caught, translated():
        raise CLASSES[name]("text")
    assert isinstance(caught.value.__cause__, CLASSES[name])


def test_an_error_that_nobody_knows_ends_the_flow() -> None:
    """It is neither waited for nor taken for a setting."""
    assert type(translate(CLASSES["TransactionConflict"]("?"))) is SynclineError


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "nonsense", "pulsar://", "pulsar://host:99999"])
def test_unusable_address(url: str) -> None:
    """It is refused before anything is connected."""
    with pytest.raises(Misconfigured, match=r"pulsar\.url"):
        connect(url)


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file, a file without TLS, a certificate without its key: each is named."""
    file = tmp_path / "pem"
    with pytest.raises(Misconfigured, match="no such file"):
        connect("pulsar+ssl://host", tls_ca_file=file)
    file.touch()
    with pytest.raises(Misconfigured, match="asks for no TLS"):
        connect("pulsar://host", tls_ca_file=file)
    with pytest.raises(Misconfigured, match="belong together"):
        connect("pulsar+ssl://host", tls_certificate_file=file)


class Asked:
    """What a `pulsar.Client` would be asked for."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.options = options


def test_what_secures_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host names are checked, the certificate is sent, and a token is how we say who we are."""
    monkeypatch.setattr(pulsar, "Client", Asked)
    pem = tmp_path / "pem"
    pem.touch()
    files: Any = {"tls_ca_file": pem, "tls_certificate_file": pem, "tls_key_file": pem}
    asked: Any = connect("pulsar+ssl://host", token="secret", **files)
    assert asked.options["tls_validate_hostname"]
    assert asked.options["tls_trust_certs_file_path"] == str(pem)
    assert asked.options["tls_private_key_file_path"] == str(pem)
    assert isinstance(asked.options["authentication"], pulsar.AuthenticationToken)
    without: Any = connect("pulsar+ssl://host", **files)
    assert isinstance(without.options["authentication"], pulsar.AuthenticationTLS)


class Topics:
    """A client of a broker with these partitions."""

    def __init__(self, *names: str, error: str = "") -> None:
        self._names = names
        self._error = error

    def get_topic_partitions(self, topic: str) -> list[str]:
        if self._error:
            raise CLASSES[self._error]("text")
        return list(self._names)


def test_partitions_of_a_partitioned_topic() -> None:
    """They are its own, in the order of their numbers, also if it has only one."""
    names = [f"{TOPIC}-partition-{k}" for k in range(12)]
    assert partition_topics(Topics(*sorted(names)), TOPIC, 3) == tuple(names)
    assert partition_topics(Topics(names[0]), TOPIC, 3) == (names[0],)


@pytest.mark.parametrize("client", [Topics(TOPIC), Topics(error="TopicNotFound")])
def test_plain_topics(client: Topics) -> None:
    """Numbered topics stand for one that is not partitioned or does not exist, if it is wished."""
    assert partition_topics(client, TOPIC, 2, plain=True) == (f"{TOPIC}-0", f"{TOPIC}-1")


@pytest.mark.parametrize("client", [Topics(TOPIC), Topics(error="TopicNotFound")])
def test_a_missing_partitioned_topic(client: Topics) -> None:
    """Nothing stands for it in silence; the command that makes it is told."""
    command = f"pulsar-admin topics create-partitioned-topic {TOPIC} -p 2"
    with pytest.raises(Misconfigured, match=TOPIC) as refused:
        partition_topics(client, TOPIC, 2)
    assert command in refused.value.remedy
    assert "2 partitions" in refused.value.problem


def test_plain_topics_beside_a_partitioned_one() -> None:
    """Two processes that do not agree on the kind must not pass each other by."""
    with pytest.raises(Misconfigured, match="plain_topics"):
        partition_topics(Topics(f"{TOPIC}-partition-0"), TOPIC, 1, plain=True)


def test_partitions_of_a_broker_that_is_away() -> None:
    """Nothing is guessed."""
    with pytest.raises(Unavailable):
        partition_topics(Topics(error="Timeout"), TOPIC, 2)


# --- the client's log -----------------------------------------------------------------------------


def line(text: str, *, level: str = "ERROR", place: str = "ClientConnection:485") -> str:
    return f"2026-01-01 00:00:00.000 {level} [140153358120640] {place} | {text}\n"


def test_levels_of_the_log() -> None:
    """Its errors are our warnings, and its warnings are for those who ask."""
    with capture_logs() as logs:
        told = ClientLog()
        told.line(line("one", level="ERROR", place="A:1"))
        told.line(line("two", level="WARN ", place="B:1"))
        told.line("what is no line of the log\n")
    assert [(log["log_level"], log["message"]) for log in logs] == [
        ("warning", "one"),
        ("info", "two"),
    ]


def test_log_without_secrets() -> None:
    """Tokens and passwords in an address do not get into our log."""
    with capture_logs() as logs:
        ClientLog().line(line("pulsar://me:pass@host eyJhbGciOi.eyJzdWIiOiJ.c2ln-_ refused"))
    assert logs[0]["message"] == "pulsar://***host *** refused"


def test_log_without_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place speaks once in a while, and then tells how much was left out."""
    with capture_logs() as logs:
        told = ClientLog()
        for _ in range(100):
            told.line(line("refused"))
        told.line(line("other", place="Other:1"))
        monkeypatch.setattr("time.monotonic", lambda: float("inf"))
        told.line(line("refused"))
    assert [(log["message"], log["left_out"]) for log in logs] == [
        ("refused", 0),
        ("other", 0),
        ("refused", 99),
    ]


def test_the_pipe_never_blocks_soon() -> None:
    """There is one for the process, with room for thousands of lines, and it is read."""
    path = log_pipe()
    assert path == log_pipe()
    with open(path, "wb", buffering=0) as pipe:
        for _ in range(3 * pulsar_log.PIPE_BYTES // 65_536):
            assert os.write(pipe.fileno(), b"\n" * 65_536) == 65_536
