"""Asks a broker whether it lets us in, before the client does.

The client takes a refusal at this point for a broken connection (apache/pulsar-client-cpp#227) and
goes on trying until its time is over, so it cannot tell a wrong token from an outage. The exchange
is two messages of PulsarApi.proto: CONNECT, answered by CONNECTED or ERROR.
"""

from __future__ import annotations

import io
import socket
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from connectors.pulsar_errors import SERVICE
from syncline.errors import Misconfigured, Unavailable

ANSWER_SECONDS = 3.0
MAX_ANSWER_BYTES = 65_536
PROTOCOL_VERSION = 19
"""Of Apache Pulsar 2.9; a broker speaks all versions up to its own."""

_CONNECT, _ERROR = 2, 14
_DENIALS: Mapping[int | bytes, str] = {3: "AuthenticationError", 4: "AuthorizationError"}


class Credentials(NamedTuple):
    """How to reach a broker and who we are: the arguments of `connect`."""

    url: str
    token: str | None = None
    tls_ca_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None


def check(credentials: Credentials) -> None:
    """Return if a broker lets us in.

    Raises `Misconfigured` if it refuses token or certificate, or we its certificate, and
    `Unavailable` if none answers.
    """
    address = urlsplit(credentials.url)
    reason = "no address"
    for host in address.netloc.split(","):
        try:
            _shake_hands(host, address.scheme == "pulsar+ssl", credentials)
        except ssl.SSLError as error:
            raise Misconfigured(
                f"no TLS connection to {host}: {error.reason or error}",
                "check pulsar.tls_ca_file, pulsar.tls_certificate_file, and the name and port in "
                "pulsar.url",
                code="access_refused",
            ) from error
        except OSError as error:
            reason = f"{host}: {error}"
        else:
            return
    raise Unavailable(SERVICE, reason)


def _shake_hands(host: str, tls: bool, credentials: Credentials) -> None:
    name, port = _split(host, tls)
    with socket.create_connection((name, port), timeout=ANSWER_SECONDS) as plain:
        if not tls:
            _ask(plain, host, credentials)
            return
        with _context(credentials).wrap_socket(plain, server_hostname=name) as secured:
            _ask(secured, host, credentials)


def _split(host: str, tls: bool) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or (6651 if tls else 6650)


def _context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=credentials.tls_ca_file)
    if credentials.tls_certificate_file is not None:
        context.load_cert_chain(credentials.tls_certificate_file, credentials.tls_key_file)
    return context


def _ask(connection: socket.socket, host: str, credentials: Credentials) -> None:
    command = _connect_command(credentials)
    connection.sendall(struct.pack(">II", len(command) + 4, len(command)) + command)
    answer = _fields(_receive(connection))
    if answer.get(1) != _ERROR:
        return
    error = _fields(_bytes(answer.get(_ERROR)))
    text = _bytes(error.get(3)).decode("utf-8", "replace")[:200]
    if credentials.token:
        text = text.replace(credentials.token, "***")
    denial = _DENIALS.get(error.get(2, 0))
    if denial is None:
        raise Unavailable(SERVICE, f"{host}: {text}")
    raise Misconfigured(
        f"Pulsar refuses the credentials ({denial}): {text}",
        "check pulsar.token or the TLS certificate",
        code="access_refused",
    )


def _receive(connection: socket.socket) -> bytes:
    """One command: its size stands before it, and that of the frame before that."""
    with connection.makefile("rb") as stream:
        sizes = stream.read(8)
        if len(sizes) < 8:
            raise ConnectionResetError("it hung up")
        _, size = struct.unpack(">II", sizes)
        return stream.read(min(size, MAX_ANSWER_BYTES))


# --- protobuf -------------------------------------------------------------------------------------


def _connect_command(credentials: Credentials) -> bytes:
    connect = _text(1, "Syncline") + _varint(4 << 3) + _varint(PROTOCOL_VERSION)
    if credentials.token:
        connect += _text(5, "token") + _text(3, credentials.token)
    elif credentials.tls_certificate_file is not None:
        connect += _text(5, "tls")
    body = _varint(_CONNECT << 3 | 2) + _varint(len(connect)) + connect
    return _varint(1 << 3) + _varint(_CONNECT) + body


def _text(field: int, text: str) -> bytes:
    raw = text.encode()
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    raw = bytearray()
    while number > 0x7F:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*raw, number])


def _fields(raw: bytes) -> dict[int, int | bytes]:
    """Fields by number: varints and what has a length; stops at what is neither."""
    fields: dict[int, int | bytes] = {}
    stream = io.BytesIO(raw)
    while (tag := _read_varint(stream)) is not None:
        value = _read_varint(stream)
        if value is None or tag & 7 not in (0, 2):
            break
        fields[tag >> 3] = stream.read(value) if tag & 7 == 2 else value
    return fields


def _read_varint(stream: io.BytesIO) -> int | None:
    number = shift = 0
    while byte := stream.read(1):
        number |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return number
    return None


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""
