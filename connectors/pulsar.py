"""Gateway to Pulsar: connecting, and the topics that stand for the partitions.

Every exception of the client passes through `translated()`, every result of a callback through
`translate()`.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pulsar

from connectors.pulsar_errors import SERVICE, translate, translated
from connectors.pulsar_log import log_pipe
from syncline.errors import Misconfigured

__all__ = ["SERVICE", "connect", "disconnect", "partition_topics", "translate", "translated"]

OPERATION_SECONDS = 3
"""A call to the broker that takes longer is made again by our own retry, which a stop interrupts
and `/readyz` shows."""
CONNECT_MILLISECONDS = 3_000


def connect(
    url: str,
    *,
    token: str | None = None,
    tls_ca_file: Path | None = None,
    tls_certificate_file: Path | None = None,
    tls_key_file: Path | None = None,
) -> pulsar.Client:
    """A client; opens nothing yet. A token wins over authentication by certificate.

    The server's name is checked against its certificate. Raises `Misconfigured` if the arguments
    cannot be used.
    """
    _check(url, tls_ca_file, tls_certificate_file, tls_key_file)
    try:
        return pulsar.Client(
            url,
            authentication=_authentication(token, tls_certificate_file, tls_key_file),
            operation_timeout_seconds=OPERATION_SECONDS,
            connection_timeout_ms=CONNECT_MILLISECONDS,
            stats_interval_in_seconds=0,
            tls_trust_certs_file_path=_text(tls_ca_file) or ssl.get_default_verify_paths().cafile,
            tls_validate_hostname=True,
            tls_certificate_file_path=_text(tls_certificate_file),
            tls_private_key_file_path=_text(tls_key_file),
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Warn, log_pipe()),
        )
    except (ValueError, pulsar.PulsarException) as error:
        raise Misconfigured(
            f"pulsar.url is not a usable address: {error}",
            "write pulsar://host:port or pulsar+ssl://host:port",
        ) from error


def disconnect(client: pulsar.Client) -> None:
    """Close a client with all its producers and consumers, whatever the broker answers.

    Takes up to `OPERATION_SECONDS` if that is nothing. Not `shutdown()`, which keeps the
    interpreter's lock while it waits for threads that may need it.
    """
    with suppress(pulsar.PulsarException):
        client.close()


def partition_topics(
    client: pulsar.Client, topic: str, partitions: int, *, plain: bool = False
) -> tuple[str, ...]:
    """The topics that carry the partitions, in their order.

    Those of the partitioned topic `topic`, whatever `partitions` says; `plain`: the topics
    `<topic>-0` to `<topic>-<partitions - 1>`. Raises `Unavailable`, and `Misconfigured` if `topic`
    is not of the kind that is asked for.
    """
    try:
        names: list[str] = client.get_topic_partitions(topic)
    except pulsar.TopicNotFound:
        names = []
    except pulsar.PulsarException as error:
        raise translate(error) from error
    # A partitioned topic may have one partition only.
    partitioned = len(names) > 1 or any("-partition-" in name for name in names)
    if partitioned == plain:
        raise _partitioned(topic) if plain else _not_partitioned(topic, partitions)
    if plain:
        return tuple(f"{topic}-{k}" for k in range(partitions))
    return tuple(sorted(names, key=lambda name: int(name.rpartition("-")[2])))


def _not_partitioned(topic: str, partitions: int) -> Misconfigured:
    return Misconfigured(
        f"pulsar.topic = {topic} is not a partitioned topic of this broker; {partitions} "
        "partitions (pulsar.partitions) are asked for",
        f"pulsar-admin topics create-partitioned-topic {topic} -p {partitions}",
        code="topic_unfit",
    )


def _partitioned(topic: str) -> Misconfigured:
    return Misconfigured(
        f"pulsar.topic = {topic} is a partitioned topic, and pulsar.plain_topics is set",
        "leave pulsar.plain_topics out: it is for brokers that have no partitioned topics",
        code="topic_unfit",
    )


def _check(url: str, ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    named = {"tls_ca_file": ca, "tls_certificate_file": certificate, "tls_key_file": key}
    for name, path in named.items():
        if path is not None and not path.is_file():
            raise Misconfigured(f"pulsar.{name} = {path}: there is no such file", "correct it")
        if path is not None and not url.startswith("pulsar+ssl://"):
            raise Misconfigured(
                f"pulsar.{name} is set, but pulsar.url asks for no TLS",
                "write pulsar+ssl://host:port, or leave the file out",
            )
    if (certificate is None) != (key is None):
        raise Misconfigured(
            "pulsar.tls_certificate_file and pulsar.tls_key_file belong together",
            "set both or neither",
        )


def _authentication(token: str | None, certificate: Path | None, key: Path | None) -> Any:
    if token:
        return pulsar.AuthenticationToken(token)
    if certificate is not None:
        return pulsar.AuthenticationTLS(str(certificate), str(key))
    return None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
