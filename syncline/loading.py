"""What `syncline load` connects: the sources, the database, a progress bar."""

from __future__ import annotations
