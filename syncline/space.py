"""Stops before the disk is full: the embedded engines cannot be stopped in order once it is.

They write through mapped memory, and where a page finds no room the system ends the process.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from syncline.errors import Misconfigured

_MB = 1_000_000


def check_space(directory: Path, min_free_mb: int) -> None:
    """Raises `Misconfigured` if less than `min_free_mb` (10^6 bytes) is free where `directory` is.

    Cheap: asks the file system for one number. Quotas are not seen.
    """
    free = shutil.disk_usage(directory).free
    if free < min_free_mb * _MB:
        raise Misconfigured(
            f"the disk of {directory} is almost full: {free // _MB} MB are free, and"
            f" local.min_free_mb = {min_free_mb}",
            "free some space and start again, nothing is lost; or set local.data_dir (--data-dir)"
            " to a larger disk",
            code="file_refused",
        )
