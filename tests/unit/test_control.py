"""What a flow and its surroundings share."""

from __future__ import annotations

from syncline.control import Control, Progress


def test_states() -> None:
    """The state is the most urgent thing that is true."""
    control = Control()
    states = [control.state]
    for step in (
        control.begin,
        lambda: control.estimate_backfill("a", 10),
        lambda: control.unavailable("mongo", "gone"),
        control.request_stop,
        control.ended,
    ):
        step()
        states.append(control.state)
    assert states == ["starting", "streaming", "backfilling", "waiting", "stopping", "stopped"]


def test_first_error_counts() -> None:
    """What follows from an error does not hide it; it also asks for a stop."""
    control, first = Control(), ValueError("first")
    control.fail(first)
    control.fail(ValueError("second"))
    assert control.error is first
    assert control.wait_stop(0)


def test_progress_of_a_backfill() -> None:
    """More documents than estimated correct the estimate; the end removes it."""
    control = Control()
    control.estimate_backfill("a", 2)
    control.count_backfill("a", 3)
    assert control.backfill == {"a": Progress(3, 3)}
    control.end_backfill("a")
    control.end_backfill("a")
    assert control.backfill == {}


def test_news_of_services() -> None:
    """Only the first report of an outage is news, and only the first of its end."""
    control = Control()
    assert control.unavailable("mongo", "gone")
    assert not control.unavailable("mongo", "still gone")
    assert control.waiting == {"mongo": "still gone"}
    assert control.available("mongo")
    assert not control.available("mongo")
