"""Image, compose file, manifests, alerts and dashboard fit the code: nothing here can be run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr
from typer.main import get_group

from retriever.app import create_app
from syncline.cli import app as cli
from syncline.probes import create_probes
from syncline.server import check_exposure
from syncline.settings import Configuration, load_settings
from syncline.telemetry import Telemetry
from tests.deployment import (
    DEPLOY,
    DOCKERFILE,
    ROOT,
    SERVICES,
    SETTINGS,
    Process,
    config_map,
    of_kind,
    pod,
    processes,
    resolved,
    texts,
)
from transforms.map import check_rule

PROCESSES = processes()
PAGES = ("docs/topologies.md", "docs/operating-at-scale.md")
NEEDS = {
    "capture": {"mongo.uri", "pulsar.url"},
    "index": {"mongo.uri", "pulsar.url", "qdrant.url"},
    "serve": {"qdrant.url"},
}
"""What each command cannot do without."""
FOREIGN_METRICS = {"pulsar_subscription_back_log"}
"""Apache Pulsar's: https://pulsar.apache.org/docs/reference-metrics/"""


def settings_of(process: Process, patch: pytest.MonkeyPatch) -> Configuration:
    """What a process would read: its variables, and the file that is mounted."""
    for name in SETTINGS:
        patch.delenv(name, raising=False)
    for name, value in process.environment.items():
        patch.setenv(name, value)
    patch.setenv("SYNCLINE_CONFIG", str(process.file))
    return load_settings()


def apps() -> dict[str, FastAPI]:
    """The HTTP surface of each command; nothing in them is called."""
    unused: Any = None
    probes = create_probes(status=unused, ready=unused, telemetry=Telemetry(), api_key=None)
    served = create_app(
        unused,
        status=unused,
        ready=unused,
        telemetry=Telemetry(),
        api_key=SecretStr("key"),
        failed=unused,
        verify=None,
    )
    return {"capture": probes, "index": probes, "serve": served}


def routes(app: FastAPI) -> set[str]:
    return {route.path for route in app.routes if isinstance(route, APIRoute)}


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression, and every metric that an autoscaler goes by, with its place."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/syncline.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        yield f"alert {rule['alert']}", rule["expr"]
    for name, scaler in of_kind("HorizontalPodAutoscaler").items():
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "External":
                yield f"autoscaler {name}", metric["external"]["metric"]["name"]
    rules = yaml.safe_load((DEPLOY / "prometheus/adapter-rules.yaml").read_text())["rules"]
    for rule in rules["external"]:
        yield "adapter rule", rule["seriesQuery"]
        yield "adapter rule", rule["name"]["as"]


def exposed() -> dict[str, set[str]]:
    """Each sample of the real registry once something has happened, with its labels."""
    telemetry = Telemetry()
    telemetry.applied({"indexed": 1})
    telemetry.searched("hybrid", 0.01)
    telemetry.published({"upsert": 1}, 100, 0.01)
    telemetry.verified({"missing": 1}, repaired=1, seconds=0.1)
    telemetry.watch(lambda: {"documents": {"failed": 1}})
    telemetry.exposition()
    found: dict[str, set[str]] = {}
    for sample in (one for family in telemetry.registry.collect() for one in family.samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_process_is_looked_at() -> None:
    """Compose file, manifests and example start each of the three parts, two with a GPU."""
    assert sorted(p.arguments[0] for p in PROCESSES) == sorted([*NEEDS, *NEEDS, *NEEDS, "index"])
    on_gpu = {p.place for p in PROCESSES if p.environment.get("SYNCLINE_EMBEDDER_DEVICE") == "cuda"}
    assert on_gpu == {"compose gpu index", "kubernetes example syncline-index"}


def test_every_variable_is_a_setting() -> None:
    """No file sets, and no page names, a SYNCLINE_ variable that nothing reads."""
    pages = {page: (ROOT / page).read_text() for page in PAGES}
    for place, text in {**texts(), **pages}.items():
        named = set(re.findall(r"\bSYNCLINE_[A-Z_]+[A-Z]", text)) - {"SYNCLINE_CONFIG"}
        assert named <= SETTINGS, f"{place}: {named - SETTINGS}"


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.place)
def test_its_settings_are_accepted(
    process: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Its variables give a valid configuration with all it needs, reachable, behind a key."""
    monkeypatch.chdir(tmp_path)
    settings = settings_of(process, monkeypatch)
    for need in NEEDS[process.arguments[0]]:
        part, key = need.split(".")
        value = getattr(getattr(settings, part), key)
        assert value.get_secret_value() if isinstance(value, SecretStr) else value, need
    assert settings.http.host == "0.0.0.0"
    check_exposure(settings.http)
    for name, rule in settings.mapping.items():
        check_rule(name, rule)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.place)
def test_a_wrong_value_would_be_noticed(
    process: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Each variable that is set reaches a setting of its own, by its value."""
    monkeypatch.chdir(tmp_path)
    settings = settings_of(process, monkeypatch)
    for name in SETTINGS & set(process.environment):
        part, _, key = name.removeprefix("SYNCLINE_").lower().partition("_")
        found = getattr(getattr(settings, part), key)
        shown = found.get_secret_value() if isinstance(found, SecretStr) else found
        assert str(shown) == process.environment[name], name


def test_a_mapping_can_be_given() -> None:
    """The file is mounted read-only where the variable says, in every process."""
    for name in NEEDS:
        service = SERVICES["retriever" if name == "serve" else name]
        (mount,) = service["volumes"]
        assert resolved(mount).split(":")[1:] == [service["environment"]["SYNCLINE_CONFIG"], "ro"]
    place = config_map()["SYNCLINE_CONFIG"]
    for deployment in of_kind("Deployment").values():
        spec = pod(deployment)
        (mounted,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "config"]
        (volume,) = [v for v in spec["volumes"] if v["name"] == "config"]
        assert f"{mounted['mountPath']}/syncline.toml" == place and mounted["readOnly"]
        assert volume["configMap"] == {"name": "syncline-config"}
    (example,) = {p.file for p in PROCESSES if "example" in p.place}
    assert "[mapping." in example.read_text()


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.place)
def test_its_command_exists(process: Process) -> None:
    """The command line understands the arguments."""
    name, *arguments = process.arguments
    command = get_group(cli).commands[name]
    command.make_context(name, arguments)


def test_every_port_is_the_one_that_is_listened_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Container ports, published ports, EXPOSE and scrape targets are `http.port`."""
    monkeypatch.chdir(tmp_path)
    (port,) = {settings_of(process, monkeypatch).http.port for process in PROCESSES}
    assert re.findall(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE) == [str(port)]
    published = [one.rpartition(":")[2] for one in SERVICES["retriever"]["ports"]]
    assert published == [str(port)]
    for name, deployment in of_kind("Deployment").items():
        (container,) = pod(deployment)["containers"]
        assert container["ports"] == [{"name": "http", "containerPort": port}], name
    for name, service in of_kind("Service").items():
        assert [one["targetPort"] for one in service["spec"]["ports"]] == ["http"], name
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    ours = {job["job_name"]: job for job in scraped if "dns_sd_configs" in job}
    assert set(ours) == {"capture", "index", "retriever"} <= set(SERVICES)
    for name, job in ours.items():
        assert [(one["names"], one["port"]) for one in job["dns_sd_configs"]] == [([name], port)]


def test_every_health_path_is_a_route() -> None:
    """Probes, the image's health check and scrapes ask for what each command serves."""
    surface = {command: routes(app) for command, app in apps().items()}
    everywhere = set.intersection(*surface.values())
    assert set(re.findall(r"'(/\w+)'", DOCKERFILE.split("HEALTHCHECK")[1])) == {"/healthz"}
    assert {"/healthz", "/metrics"} <= everywhere
    for name, deployment in of_kind("Deployment").items():
        (container,) = pod(deployment)["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["path"] in surface[container["args"][0]], f"{name} {probe}"
            assert asked["port"] == "http", f"{name} {probe}"


def test_every_metric_is_exposed() -> None:
    """Dashboard, alerts and autoscalers name samples of the real registry and their labels."""
    samples = exposed()
    ambient = {"job", "instance", "le"}
    seen = set()
    for place, expression in expressions():
        named = set(re.findall(r"\b((?:syncline|pulsar)_[a-z_]+)", expression))
        assert named <= set(samples) | FOREIGN_METRICS, f"{place}: {named - set(samples)}"
        seen |= named
        for name, matchers in re.findall(r"\b(syncline_[a-z_]+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
            assert labels <= samples[name] | ambient, f"{place}: {labels}"
    assert len(seen & set(samples)) >= 6


def test_jobs_in_expressions_are_scraped() -> None:
    """A `job` that an expression asks for is a scrape job, or `up`, the direct form."""
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    known = {job["job_name"] for job in scraped} | {"up"}
    components = {
        deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for deployment in of_kind("Deployment").values()
    }
    assert components < known
    for place, expression in expressions():
        for alternatives in re.findall(r'job=~?"([^"]*)"', expression):
            assert set(alternatives.split("|")) <= known, place
