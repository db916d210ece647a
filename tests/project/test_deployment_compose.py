"""`docker-compose.yml`: closed, pinned, bounded, and every name in it leads somewhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncline.lifecycle import STOP_SECONDS
from syncline.settings import PulsarSettings
from tests.deployment import COMPOSE, DEPLOY, ROOT, SERVICES, resolved

TEXT = (ROOT / "docker-compose.yml").read_text()
MAKE_ENV = DEPLOY / "compose/make-env.sh"
INITS = {name for name in SERVICES if name.endswith("-init")}
EACH = pytest.mark.parametrize("name", list(SERVICES))
REQUIRED = set(re.findall(r"\$\{(\w+):\?", TEXT))


def mounts(name: str) -> list[list[str]]:
    return [resolved(volume).split(":") for volume in SERVICES[name].get("volumes", ())]


def environment(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SERVICES[name].get("environment", {})
    return found


@EACH
def test_it_is_pinned_bounded_and_checked(name: str) -> None:
    """A version, limits, and a health check of its own, or the image's."""
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+", service["image"]), "latest is no version"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    ours = service["image"].startswith("syncline:")
    assert ours or name in INITS or service["healthcheck"]["test"][0].startswith("CMD")


@EACH
def test_it_is_unprivileged(name: str) -> None:
    """No root, no capabilities, a read-only root but where the image needs to write."""
    service = SERVICES[name]
    ours = service["image"].startswith("syncline:")
    assert ours or re.match(r"[1-9]\d*:\d+", service["user"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] or service["image"].startswith("apachepulsar/")
    assert not {"privileged", "network_mode", "pid"} & set(service)


@EACH
def test_nothing_listens_beyond_loopback(name: str) -> None:
    """Every published port is bound to 127.0.0.1."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@EACH
def test_every_secret_is_asked_for(name: str) -> None:
    """What sounds like a secret comes from the environment, and has no default."""
    for variable, value in environment(name).items():
        if re.search(r"PASSWORD|TOKEN|_KEY$|_URI$|authParams|tokenSecretKey", variable):
            given = re.findall(r"\$\{(\w+)[:}]", str(value))
            assert given and set(given) <= REQUIRED, variable


@EACH
def test_every_name_leads_somewhere(name: str) -> None:
    """Volumes are declared, files exist, dependencies are services that can be waited for."""
    for source, *_ in mounts(name):
        exists = (
            (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        )
        assert exists, source
    for other, how in SERVICES[name].get("depends_on", {}).items():
        waits_for_end = how["condition"] == "service_completed_successfully"
        assert waits_for_end == (other in INITS)
        assert waits_for_end or "healthcheck" in SERVICES[other]
    hosts = re.findall(
        r"(?:://|@)([a-z]\w*):\d+", " ".join(map(resolved, environment(name).values()))
    )
    assert set(hosts) <= set(SERVICES)


def test_every_volume_is_used() -> None:
    """None is declared in vain."""
    used = {source for name in SERVICES for source, *_ in mounts(name)}
    assert set(COMPOSE["volumes"]) <= used


def test_flows_have_time_to_stop() -> None:
    """They are killed no sooner than twice the time that a stop may take."""
    for service in SERVICES.values():
        if service["image"].startswith("syncline:"):
            assert int(service["stop_grace_period"].removesuffix("s")) >= 2 * STOP_SECONDS


def test_the_topic_is_made_as_it_is_used() -> None:
    """The init job and the flows agree on topic, subscription and the role that has the rights."""
    job, index = environment("pulsar-init"), environment("index")
    assert index == environment("capture")
    assert job["TOPIC"] == index["SYNCLINE_PULSAR_TOPIC"]
    assert job["SUBSCRIPTION"] == index["SYNCLINE_PULSAR_SUBSCRIPTION"]
    assert int(resolved(job["PARTITIONS"])) == PulsarSettings().partitions
    script = (DEPLOY / "compose/pulsar-init.sh").read_text()
    assert set(re.findall(r"\$\{?([A-Z]\w+)", script)) <= set(job)


def test_the_account_is_made_as_it_is_used() -> None:
    """The init job's variables are given, and make the account that the flows' URI names."""
    script = (DEPLOY / "compose/mongodb-init.js").read_text()
    named = re.search(r"const \{([^}]*)\} = process\.env", script)
    assert named and set(named[1].replace(" ", "").split(",")) <= set(environment("mongodb-init"))
    (account,) = re.findall(r'user: "(\w+)"', script)
    assert f"mongodb://{account}:" in environment("index")["SYNCLINE_MONGO_URI"]


def test_grafana_finds_dashboard_and_data() -> None:
    """Its provider's path is mounted with the dashboard in it; panels name the data source."""
    provisioning = DEPLOY / "grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/syncline.yml").read_text())[
        "providers"
    ]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    mounted = {target: ROOT / where for where, target, *_ in mounts("grafana")}
    dashboard = json.loads((mounted[provider["options"]["path"]] / "syncline.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_make_env_gives_every_secret_once(tmp_path: Path) -> None:
    """It writes exactly what is asked for, readable by its owner alone, and overwrites nothing."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file = tmp_path / ".env"
    subprocess.run([MAKE_ENV, file], check=True, capture_output=True)
    written = file.read_text()
    secrets = dict(line.split("=", 1) for line in written.splitlines())
    assert set(secrets) == REQUIRED
    assert len(set(secrets.values())) == len(secrets)
    assert min(map(len, secrets.values())) >= 64
    assert file.stat().st_mode & 0o777 == 0o600
    again = subprocess.run([MAKE_ENV, file], check=False, capture_output=True)
    assert again.returncode != 0
    assert file.read_text() == written
    for name, role in (("PULSAR_TOKEN", "syncline"), ("PULSAR_ADMIN_TOKEN", "admin")):
        assert subject(secrets[name], base64.b64decode(secrets["PULSAR_TOKEN_KEY"])) == role


def subject(token: str, key: bytes) -> str:
    """Whom a JSON web token is for, if its signature (HS256) holds."""

    def decode(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    head, body, signature = token.split(".")
    signed = hmac.new(key, f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert hmac.compare_digest(signed, decode(signature))
    assert json.loads(decode(head)) == {"alg": "HS256"}
    found: str = json.loads(decode(body))["sub"]
    return found


@pytest.mark.parametrize("files", [[], ["deploy/compose/gpu.yml"]], ids=["cpu", "gpu"])
def test_compose_itself_reads_it(files: list[str], tmp_path: Path) -> None:
    """`config` accepts the files with the secrets given, and refuses them without."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    none = tmp_path / "none.env"
    none.touch()
    named = [part for file in ["docker-compose.yml", *files] for part in ("-f", file)]
    command = [program, "--env-file", str(none), *named, "config", "-q"]
    bare = {key: value for key, value in os.environ.items() if key not in REQUIRED}
    given = bare | dict.fromkeys(REQUIRED, "given")
    for variables, accepted in ((given, True), (bare, False)):
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is accepted, done.stderr
