"""One policy for services that do not answer: wait with jitter, visibly, until they do.

The mistake to avoid is giving up: a change that is dropped is lost, a wait is only late. So there
is no last attempt; a stop ends the wait. Backoff is tenacity's (which stamina is built on), with a
sleep that a stop interrupts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_random_exponential,
)

from syncline.control import Control
from syncline.errors import Stopped, Unavailable

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

FIRST_WAIT_SECONDS = 0.1
"""A failover or a restarted container is often back at once."""
LONGEST_WAIT_SECONDS = 5.0
"""The longest that a service which is back again goes unnoticed; small against any outage. Waits
are random up to it, so that many processes do not come back to a weak service all at once."""
BACKOFF = wait_random_exponential(
    min=FIRST_WAIT_SECONDS, multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS
)


def keep_trying(call: Callable[[], _T], control: Control) -> _T:
    """`call()`, again and again while it raises `Unavailable`.

    Raises `Stopped` when a stop is asked for while waiting; every other error passes at once.
    """
    waited: set[str] = set()

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Unavailable):
            if error.service not in waited:
                _log.warning("waiting_for_service", service=error.service, reason=error.reason)
            waited.add(error.service)
            control.unavailable(error.service, error.reason)

    def sleep(seconds: float) -> None:
        control.wait_stop(seconds)

    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=BACKOFF,
        stop=lambda _state: control.stop_requested,
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(call)
    except Unavailable as error:
        raise Stopped(f"stopped while waiting: {error}") from error
    finally:
        # Also after another error: the service that gave it does answer.
        for service in waited:
            control.available(service)
            _log.info("wait_is_over", service=service)
