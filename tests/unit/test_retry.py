"""Waiting for a service that is away."""

from __future__ import annotations

from tenacity import RetryCallState, Retrying

from syncline.control import Control
from syncline.errors import Unavailable
from syncline.retry import BACKOFF, FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, keep_trying


def waits(attempt: int) -> list[float]:
    """A hundred waits after so many attempts."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return [BACKOFF(state) for _ in range(100)]


def test_waits_are_random_and_bounded() -> None:
    """They grow, stay between the limits, and are not the same for all, however long it takes."""
    for attempt in (2, 6, 1000):
        found = waits(attempt)
        assert FIRST_WAIT_SECONDS <= min(found) < max(found) <= LONGEST_WAIT_SECONDS
        assert len(set(found)) > 50
    assert max(waits(3)) < max(waits(1000))


def test_a_wait_shows_until_it_is_over() -> None:
    """While a service is away it is named with its reason; afterwards nothing is."""
    control, seen = Control(), []

    def call() -> str:
        seen.append(dict(control.waiting))
        if len(seen) < 3:
            raise Unavailable("mongo", "told to refuse")
        return "answer"

    assert keep_trying(call, control) == "answer"
    assert seen == [{}, {"mongo": "told to refuse"}, {"mongo": "told to refuse"}]
    assert control.waiting == {}
