"""Asks Pulsar's admin API how many messages a subscription has still to get."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 1.0
"""An answer counts so long: status and metrics are read by several at once."""


class Backlog:
    """The backlog of `subscription` on `topics` (`persistent://tenant/namespace/name`).

    Only told to people and autoscalers: an admin API that does not answer changes nothing but
    this figure, which is then unknown. Thread-safe.
    """

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        subscription: str,
        *,
        token: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._paths = [f"/admin/v2/{topic.replace('://', '/')}/stats" for topic in topics]
        self._subscription = subscription
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
        )
        self._lock = threading.Lock()
        self._asked_at = -FRESH_SECONDS
        self._known: int | None = None

    def messages(self) -> int | None:
        """Messages published and not acknowledged, heartbeats among them; None if unknown.

        At most `FRESH_SECONDS` old.
        """
        with self._lock:
            if time.monotonic() - self._asked_at >= FRESH_SECONDS:
                self._known = self._ask()
                self._asked_at = time.monotonic()
            return self._known

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def _ask(self) -> int | None:
        total = 0
        try:
            for path in self._paths:
                stats = self._http.get(path).raise_for_status().json()
                # A subscription that nobody has made yet has everything before it, uncounted.
                total += int(stats["subscriptions"][self._subscription]["msgBacklog"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None
        return total
