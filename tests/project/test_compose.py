"""`docker-compose.yml` fits the settings, and opens nothing to the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncline.settings import load_settings

TEXT = (Path(__file__).parents[2] / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]


def test_its_variables_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exports in its head are understood, and lead to the ports that it publishes."""
    exports = dict(re.findall(r"export (SYNCLINE_\w+)='([^']*)'", TEXT))
    assert set(re.findall(r"SYNCLINE_\w+", TEXT)) == set(exports)
    for name, value in exports.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    addresses = settings.mongo.uri.get_secret_value(), settings.qdrant.url
    assert addresses == (exports["SYNCLINE_MONGO_URI"], exports["SYNCLINE_QDRANT_URL"])
    published = {port.rpartition(":")[0] for one in SERVICES.values() for port in one["ports"]}
    for address in addresses:
        assert re.findall(r"://([^/]+)", address)[0] in published


def test_nothing_listens_beyond_loopback() -> None:
    """Every published port is bound to 127.0.0.1: no service asks for a password."""
    for name, service in SERVICES.items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), name
        assert "network_mode" not in service, name


def test_every_service_is_pinned_checked_and_kept() -> None:
    """A version, a health check and a named volume each."""
    volumes = yaml.safe_load(TEXT)["volumes"]
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(volumes), name
