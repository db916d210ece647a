"""The question to a broker whether it lets us in."""

from __future__ import annotations

import socket

import pytest

from connectors.pulsar_check import Credentials, check
from syncline.errors import Misconfigured, Unavailable
from tests.brokers import Refusing

# BaseCommand{type = ERROR, error = {request_id, ServiceNotReady, "no"}}
BUSY = bytes.fromhex("00000010 0000000c 080e 7208 0800 1006 1a02 6e6f")
# BaseCommand{type = CONNECTED, connected = {server_version: "x"}}
WELCOME = bytes.fromhex("0000000b 00000007 0803 1a03 0a01 78")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("token", [None, "eyJhbGciOi.secret.sig"])
def test_denied(token: str | None) -> None:
    """A refusal is one error with the broker's words, and not the token's."""
    with Refusing() as broker, pytest.raises(Misconfigured, match=r"\): no") as e:
        check(Credentials(broker.url, token=token))
    assert "secret" not in str(e.value)


def test_broker_that_repeats_the_token() -> None:
    """What a broker says does not bring a secret into an error."""
    answer = Refusing.DENIAL.replace(b"no", b"tk")
    with Refusing(answer) as broker, pytest.raises(Misconfigured) as caught:
        check(Credentials(broker.url, token="tk"))
    assert "***" in str(caught.value) and ": tk" not in str(caught.value)


def test_let_in() -> None:
    """A broker that accepts is asked once."""
    with Refusing(WELCOME) as broker:
        check(Credentials(broker.url, token="t"))
    assert broker.connections == 1


@pytest.mark.parametrize("answer", [b"", b"\0\0", BUSY], ids=["nothing", "half", "not ready"])
def test_broker_in_trouble(answer: bytes) -> None:
    """One that hangs up, or is not ready, is waited for."""
    with Refusing(answer) as broker, pytest.raises(Unavailable):
        check(Credentials(broker.url))


def test_nobody_there() -> None:
    """That is an outage, and the address says whose."""
    port = closed_port()
    with pytest.raises(Unavailable, match=str(port)):
        check(Credentials(f"pulsar://127.0.0.1:{port}"))


def test_one_of_several_brokers() -> None:
    """Of the addresses in a URL the first that answers counts."""
    with Refusing(WELCOME) as broker:
        host = broker.url.removeprefix("pulsar://")
        check(Credentials(f"pulsar://127.0.0.1:{closed_port()},{host}"))


def test_tls_with_a_broker_that_has_none() -> None:
    """It is a wrong setting, not an outage."""
    with Refusing() as broker, pytest.raises(Misconfigured, match="no TLS connection"):
        check(Credentials(broker.url.replace("pulsar:", "pulsar+ssl:")))
