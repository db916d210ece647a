# Everything runs in .venv, which the first target that needs it creates.
# PYTHON=/path/to/python3.11 picks the interpreter; TORCH=2.x.y the version that `make lock` pins.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
BIN := .venv/bin
STAMP := .venv/.installed
FIND_PYTHON := for candidate in $(PYTHON) python3.11 python3.12 python3 python; do \
	if "$$candidate" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
		>/dev/null 2>&1; then python=$$candidate; break; fi; done; \
	if [ -z "$${python:-}" ]; then \
	echo "Syncline needs Python 3.11 or 3.12 with the venv module (on Debian: python3 and python3-venv)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; fi

.PHONY: help setup up demo test check bench soak lock clean

help: ## Show this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) \
		| while IFS=$$'\t' read -r name text; do printf '  make %-7s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Create .venv and install everything into it (minutes the first time, then instant)

# torch goes first and alone, so that the build that pip finds for this machine decides the rest.
$(STAMP): pyproject.toml constraints.txt
	@$(FIND_PYTHON); [ -x $(BIN)/python ] || "$$python" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[local,rich,dev]'
	@touch $@

up: $(STAMP) ## Run everything locally and stay on: database, sync, index and search
	@exec $(BIN)/syncline up

demo: $(STAMP) ## A guided tour that ends by itself: load, edit, delete, search, verify
	@exec $(BIN)/syncline demo

test: $(STAMP) ## Run all tests against the real local parts
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(STAMP) ## Lint, formatting, strict types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## Measure backfill, freshness, embedded chunks and resync
	@$(BIN)/python -m benchmarks

soak: $(STAMP) ## Kill real processes at random for half an hour, and look for drift (SOAK="--rounds 50")
	@$(BIN)/python -m tests.soak $(SOAK)

lock: ## Write constraints.txt anew: the newest versions that pyproject.toml allows
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(FIND_PYTHON); "$$python" -m venv "$$scratch/venv"; pip="$$scratch/venv/bin/python -m pip"; \
	torch="$${TORCH:-$$(sed -n 's/^torch==//p' constraints.txt)}"; \
	$$pip install --upgrade pip; \
	$$pip install "torch$${torch:+==$$torch}"; \
	$$pip install '.[local,dev,rich]' "torch$${torch:+==$$torch}"; \
	{ echo "# Exact versions of all extras, written by 'make lock'. Packages that only CUDA builds of"; \
	  echo "# torch need are left to torch."; \
	  $$pip freeze --exclude syncline --exclude pip | grep -viE '^(nvidia|cuda|triton)' \
	  | sed -E 's/\+[a-z0-9.]+$$//'; } > "$$scratch/constraints.txt"; \
	mv "$$scratch/constraints.txt" constraints.txt

clean: ## Remove .venv, caches and build output (never data)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
