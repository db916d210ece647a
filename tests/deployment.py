"""The deployment files, read for the tests of them: every process of Syncline that they start."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from syncline.settings import Configuration

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes/base"
EXAMPLE = DEPLOY / "kubernetes/overlays/example"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GPU: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/gpu.yml").read_text())
SETTINGS = {
    f"SYNCLINE_{part}_{key}".upper()
    for part, field in Configuration.model_fields.items()
    if part != "mapping"
    for key in field.annotation.model_fields  # type: ignore[union-attr]
}


class Process(NamedTuple):
    """A process of Syncline that some file starts: where, with which arguments and variables."""

    place: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    file: Path
    """The settings file that is mounted where `SYNCLINE_CONFIG` says."""


def texts() -> dict[str, str]:
    """Every file that deploys something, by its path: configuration only, no prose."""
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *sorted(DEPLOY.rglob("*"))]
    return {str(f.relative_to(ROOT)): f.read_text() for f in files if f.is_file()}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, as (name, rest), continuation lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest.strip()) for name, _, rest in pairs]


def image_environment() -> dict[str, str]:
    """What the image's last stage sets."""
    found: dict[str, str] = {}
    for name, rest in instructions():
        if name == "FROM":
            found = {}
        elif name == "ENV":
            found |= dict(part.split("=", 1) for part in shlex.split(rest))
    return {key: resolved(value) for key, value in found.items()}


def resolved(value: Any) -> str:
    """A value of a compose file: defaults taken, what has to be given replaced by `given`."""
    text = re.sub(r"\$\{\w+:\?[^}]*\}|\$\{\w+\}", "given", str(value))
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects that a kustomization of ours lists, as they stand in its files."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for name in listed["resources"]:
        if (folder / name).is_dir():
            yield from documents(folder / name)
        else:
            yield from yaml.safe_load_all((folder / name).read_text())


def of_kind(kind: str, folder: Path = BASE) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    found = [one for one in documents(folder) if one["kind"] == kind]
    return {one["metadata"]["name"]: one for one in found}


def pod(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """A Deployment's pod."""
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def config_map() -> dict[str, str]:
    """The generated ConfigMap of the base."""
    return dict(line.split("=", 1) for line in (BASE / "config.env").read_text().splitlines())


def processes() -> list[Process]:
    """Every process of Syncline that the image, the compose file and the manifests start."""
    image = image_environment()
    found = []
    for name, service in SERVICES.items():
        if service["image"].startswith("syncline:"):
            own = {key: resolved(value) for key, value in service["environment"].items()}
            mounts = [resolved(volume).split(":") for volume in service["volumes"]]
            (file,) = (ROOT / m[0] for m in mounts if m[1] == own["SYNCLINE_CONFIG"])
            command = tuple(service["command"])
            found.append(Process(f"compose {name}", command, {**image, **own}, file))
            if name in GPU["services"]:
                gpu = {**image, **own, **GPU["services"][name]["environment"]}
                found.append(Process(f"compose gpu {name}", command, gpu, file))
    for name, deployment in of_kind("Deployment").items():
        (container,) = pod(deployment)["containers"]
        secret = {one["name"]: "given" for one in container["env"]}
        for folder, added in ((BASE, {}), (EXAMPLE, example(name))):
            own = {**image, **config_map(), **secret, **added}
            place, file = f"kubernetes {folder.name} {name}", folder / "syncline.toml"
            found.append(Process(place, tuple(container["args"]), own, file))
    return found


def example(deployment: str) -> dict[str, str]:
    """What the example adds to the variables of a Deployment: literals, and its patches."""
    listed = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
    literals = [line for one in listed["configMapGenerator"] for line in one.get("literals", ())]
    found = dict(line.split("=", 1) for line in literals)
    for patch in listed["patches"]:
        if patch["target"].get("name", deployment) == deployment:
            for step in yaml.safe_load((EXAMPLE / patch["path"]).read_text()):
                if "/env/" in step["path"]:
                    found[step["value"]["name"]] = step["value"]["value"]
    return found
