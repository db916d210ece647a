"""The Dockerfile keeps its promises: small, unprivileged, pinned, and nothing fetched later."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest

from tests.deployment import ROOT, SERVICES, image_environment, instructions, resolved

INSTRUCTIONS = instructions()
FROM = re.compile(r"(?P<image>\S+)( AS (?P<stage>\S+))?", re.IGNORECASE)


def stages() -> list[tuple[str, str]]:
    """(image, stage name) of each FROM."""
    found = [FROM.fullmatch(rest) for name, rest in INSTRUCTIONS if name == "FROM"]
    return [(one["image"], one["stage"] or "") for one in found if one]


def last_stage() -> list[tuple[str, str]]:
    start = max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM")
    return INSTRUCTIONS[start:]


def values(name: str) -> list[str]:
    return [rest for found, rest in last_stage() if found == name]


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_every_stage_exists(variant: str) -> None:
    """Each FROM and each COPY --from names an earlier stage, for both variants."""
    known: set[str] = set()
    outside = []
    for name, rest in INSTRUCTIONS:
        if name == "FROM":
            image, stage = stages()[len(known)]
            image = image.replace("${VARIANT}", variant)
            assert "$" not in image
            if image not in known:
                outside.append(image)
            known.add(stage)
        for source in re.findall(r"--from=(\S+)", rest):
            assert source in known
    assert outside == ["python:3.11-slim-bookworm"], "one base, of the one Python that is tested"


def test_what_it_copies_is_sent_and_is_there() -> None:
    """Every COPY from the checkout exists, and `.dockerignore` lets it and nothing else through."""
    copied = {
        path
        for name, rest in INSTRUCTIONS
        if name == "COPY" and "--from" not in rest
        for path in rest.split()[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert copied == {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) < copied


def test_the_cpu_image_gets_the_cpu_build() -> None:
    """By default torch comes from PyTorch's index of CPU builds, also through the compose file."""
    (given,) = [rest for name, rest in INSTRUCTIONS if name == "ARG" and "TORCH_INDEX" in rest]
    default = given.partition("=")[2]
    assert default == "https://download.pytorch.org/whl/cpu"
    for service in SERVICES.values():
        if "build" in service:
            assert resolved(service["build"]["args"]["TORCH_INDEX_URL"]) == default
    assert sum('index-url "$TORCH_INDEX_URL" torch' in rest for _, rest in INSTRUCTIONS) == 1


def test_it_runs_unprivileged() -> None:
    """The last USER is a number and not 0, so that an orchestrator sees that it is no root."""
    (user,) = values("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_it_starts_syncline_itself() -> None:
    """In exec form: signals reach the process that handles them."""
    assert values("ENTRYPOINT") == ['["syncline"]']
    assert values("CMD") == ['["serve"]']
    (check,) = values("HEALTHCHECK")
    assert 'CMD ["python"' in check


def test_nothing_is_added_from_the_network_or_unpinned() -> None:
    """No ADD; everything that pip installs is held to constraints.txt."""
    assert not any(name == "ADD" for name, _ in INSTRUCTIONS)
    installs = [rest for name, rest in INSTRUCTIONS if name == "RUN" and "pip install" in rest]
    assert len(installs) == 4
    assert all("-c constraints.txt" in one or "--no-deps ." in one for one in installs)


def test_nothing_is_fetched_at_run_time() -> None:
    """The hub is switched off where the process runs, and the model was loaded without it."""
    environment = image_environment()
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["SYNCLINE_EMBEDDER_MODEL"] == "sentence-transformers/all-MiniLM-L6-v2"
    (model,) = [rest for rest in values("RUN") if "load_model" in rest]
    order = [name for name, rest in last_stage() if name == "USER" or rest == model]
    assert order == ["USER", "RUN"], "by the user who will read it"


def test_labels_say_what_it_is() -> None:
    """The labels of the Open Containers Initiative."""
    named = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(values("LABEL"))))
    assert {"title", "description", "licenses", "version", "revision"} <= named


def test_hadolint_finds_nothing() -> None:
    """Where hadolint is installed; consecutive RUNs are wanted, for the cache."""
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    command = [program, "--ignore", "DL3059", "Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
