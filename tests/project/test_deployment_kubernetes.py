"""The manifests: every reference resolves, every pod is restricted and has time to stop."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from syncline.lifecycle import STOP_SECONDS
from syncline.settings import PulsarSettings
from tests.deployment import BASE, EXAMPLE, SETTINGS, config_map, documents, of_kind, pod

DEPLOYMENTS = of_kind("Deployment")
EACH = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=list(DEPLOYMENTS))
COMPONENT = "app.kubernetes.io/component"
CUSTOM = {"PodMonitor"}
"""Kinds of operators, which Kubernetes has no schema of."""


def components() -> set[str]:
    return {
        one["spec"]["template"]["metadata"]["labels"][COMPONENT] for one in DEPLOYMENTS.values()
    }


def needed() -> dict[str, dict[str, Any]]:
    """What an installation has to bring, by kind, as the example shows it."""
    return {
        one["kind"]: one
        for one in yaml.safe_load_all((EXAMPLE / "secret.example.yaml").read_text())
    }


def rendered(folder: Path) -> list[dict[str, Any]]:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    command = [program, "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_every_listed_file_exists() -> None:
    """Resources, components, patches and variables of both kustomizations, and nothing beside."""
    for folder in (BASE, EXAMPLE):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
        names = [*listed["resources"], *listed.get("components", ())]
        names += [patch["path"] for patch in listed.get("patches", ())]
        for one in listed["configMapGenerator"]:
            names += [*one.get("envs", ()), *one.get("files", ())]
        assert all((folder / name).exists() for name in names), folder
        beside = {path.name for path in folder.iterdir()} - set(names)
        assert beside <= {"kustomization.yaml", "secret.example.yaml"}


@EACH
def test_secrets_and_config_maps_exist(deployment: dict[str, Any]) -> None:
    """Each reference is to the generated ConfigMap or to a key that the example asks for."""
    (container,) = pod(deployment)["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "syncline"}}]
    secret = needed()["Secret"]
    assert all(one["name"] in SETTINGS for one in container["env"])
    for reference in (one["valueFrom"]["secretKeyRef"] for one in container["env"]):
        assert reference["name"] == secret["metadata"]["name"]
        assert reference["key"] in secret["stringData"]
    assert not any(re.search("KEY|TOKEN|PASSWORD|_URI$", name) for name in config_map())


@EACH
def test_it_is_restricted(deployment: dict[str, Any]) -> None:
    """As the Pod Security Standard `restricted` asks, with a read-only root besides."""
    spec = pod(deployment)
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = container["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is False
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in spec["volumes"]
    }
    assert "memory" in container["resources"]["limits"]
    assert re.search(r":\d+\.\d+", container["image"])


@EACH
def test_no_service_adds_variables(deployment: dict[str, Any]) -> None:
    """A Service named syncline-http would set SYNCLINE_HTTP_PORT to an address."""
    assert pod(deployment)["enableServiceLinks"] is False


@EACH
def test_it_has_time_to_stop(deployment: dict[str, Any]) -> None:
    """Twice what a flow's stop may take, after the wait before it."""
    spec = pod(deployment)
    (container,) = spec["containers"]
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0])
    assert spec["terminationGracePeriodSeconds"] >= int(hook[-1]) + 2 * STOP_SECONDS


def test_selectors_select() -> None:
    """Services, budgets and policies point at components that exist; capture runs alone."""
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for one in of_kind(kind).values():
            found = set(re.findall(rf'"{COMPONENT}": "(\w+)"', json.dumps(one["spec"])))
            for expression in one["spec"].get("podSelector", {}).get("matchExpressions", ()):
                found |= set(expression["values"])
            assert found <= components()
    assert set(of_kind("PodDisruptionBudget")) == set(of_kind("HorizontalPodAutoscaler"))
    capture = DEPLOYMENTS["syncline-capture"]["spec"]
    assert (capture["replicas"], capture["strategy"]["type"]) == (1, "Recreate")


def test_autoscalers_scale_what_exists() -> None:
    """Targets exist and name no replicas of their own; no more index replicas than partitions."""
    scalers = of_kind("HorizontalPodAutoscaler")
    for scaler in scalers.values():
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in DEPLOYMENTS[target["name"]]["spec"]
        assert 2 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]
    index = scalers["syncline-index"]["spec"]
    assert index["maxReplicas"] <= PulsarSettings().partitions
    selector = index["metrics"][0]["external"]["metric"]["selector"]["matchLabels"]
    assert selector["subscription"] == config_map()["SYNCLINE_PULSAR_SUBSCRIPTION"]


def test_policies_let_through_what_is_used() -> None:
    """The port of every address, in base and example, is open for those who need it."""
    rules = of_kind("NetworkPolicy").values()
    open_ports = {
        port["port"]
        for one in rules
        for rule in one["spec"].get("egress", ())
        for port in rule["ports"]
    }
    listed = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())["configMapGenerator"]
    literals = dict(line.split("=", 1) for one in listed for line in one.get("literals", ()))
    addresses = [*config_map().values(), *literals.values()]
    addresses.append(needed()["Secret"]["stringData"]["mongo-uri"])
    used = {urlsplit(one).port for one in addresses if "://" in one and "persistent" not in one}
    assert {27017, 6650, 6651, 6333, 8080, 8443} == used
    assert used <= open_ports


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
def test_kustomize_resolves_it(folder: Path) -> None:
    """`kubectl kustomize` renders all objects, and pods get the ConfigMap by its hashed name."""
    objects = rendered(folder)
    assert {one["kind"] for one in documents(folder)} <= {one["kind"] for one in objects}
    names_of = [one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"]
    (settings,) = (name for name in names_of if name.startswith("syncline-config-"))
    (generated,) = {*names_of} - {settings}
    for one in (one for one in objects if one["kind"] == "Deployment"):
        (container,) = pod(one)["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": generated}}]
        (volume,) = [v for v in pod(one)["volumes"] if v["name"] == "config"]
        assert volume["configMap"] == {"name": settings}
        names = {variable["name"] for variable in container["env"]}
        assert names <= SETTINGS


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
def test_every_object_fits_its_schema(folder: Path) -> None:
    """Strictly, by the schemas of the oldest Kubernetes that is meant."""
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    for one in rendered(folder):
        if one["kind"] not in CUSTOM:
            schemas.validate(one, "1.30", strict=True)
