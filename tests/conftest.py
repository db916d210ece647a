"""What holds for every test: no model hub, quiet tokenizers, one hypothesis profile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before any test imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("local", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The directory with optional data sets; a test that needs it is skipped where it is not."""
    named = os.environ.get("SYNCLINE_TEST_DATA", "")
    if not named:
        pytest.skip("SYNCLINE_TEST_DATA is not set")
    return Path(named)
