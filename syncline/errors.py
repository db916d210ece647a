"""Every error Syncline raises on purpose, in one picture.

    SynclineError
    ├── Rejected        this document cannot be indexed; it alone is recorded as failed
    ├── Unavailable     a service cannot be reached now; wait and try again
    ├── Misconfigured   a person has to change something; refuse to start, name the remedy
    ├── PositionLost    the change history before this position is gone; take a new snapshot
    └── Stopped         asked to stop in the middle of something; nothing is acknowledged

Gateways translate their clients' errors into these, cause chained, and nobody else does.

Each has a `code`, which is the heading of its section in docs/operations.md: what it means and what
to do. So has every warning in the log: the name of its event.
"""

from __future__ import annotations


def see(code: str) -> str:
    """Where an operator reads on about a failure of this code."""
    return f"docs/operations.md#{code}"


class SynclineError(Exception):
    """Base of all errors below; its text is made for people."""

    code = "fault"


class Rejected(SynclineError):
    """One document cannot be indexed: recorded in the ledger with step and reason."""

    code = "document_failed"

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


class Unavailable(SynclineError):
    """A service does not answer now; the same call may succeed later."""

    code = "waiting_for_service"

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service} is unavailable: {reason}")
        self.service = service
        self.reason = reason


class Misconfigured(SynclineError):
    """A setting or a service is not as needed; says what, its value and the remedy."""

    def __init__(self, problem: str, remedy: str, code: str = "wrong_setting") -> None:
        super().__init__(f"{problem}\n  remedy: {remedy}\n  see: {see(code)}")
        self.problem = problem
        self.remedy = remedy
        self.code = code


class PositionLost(SynclineError):
    """The server no longer has the changes that follow this position."""

    code = "history_lost"


class Stopped(SynclineError):
    """Work was given up because a stop was asked for; it will be done after a restart."""

    code = "stopped"
