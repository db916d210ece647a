"""Every error Syncline raises on purpose, in one picture.

    SynclineError
    ├── Rejected        this document cannot be indexed; it alone is recorded as failed
    ├── Unavailable     a service cannot be reached now; wait and try again
    ├── Misconfigured   a person has to change something; refuse to start, name the remedy
    ├── PositionLost    the change history before this position is gone; take a new snapshot
    └── Stopped         asked to stop in the middle of something; nothing is acknowledged

Gateways translate their clients' errors into these, cause chained, and nobody else does.
"""

from __future__ import annotations


class SynclineError(Exception):
    """Base of all errors below; its text is made for people."""


class Rejected(SynclineError):
    """One document cannot be indexed: recorded in the ledger with step and reason."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


class Unavailable(SynclineError):
    """A service does not answer now; the same call may succeed later."""

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service} is unavailable: {reason}")
        self.service = service
        self.reason = reason


class Misconfigured(SynclineError):
    """A setting or a service is not as needed; says what, its value and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n  remedy: {remedy}")
        self.problem = problem
        self.remedy = remedy


class PositionLost(SynclineError):
    """The server no longer has the changes that follow this position."""


class Stopped(SynclineError):
    """Work was given up because a stop was asked for; it will be done after a restart."""
