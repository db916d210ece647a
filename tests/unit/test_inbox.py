"""The queue between a reading thread and the source."""

from __future__ import annotations

import threading

from connectors.inbox import ITEM_BYTES, Inbox
from connectors.paging import PageSize


def test_writer_waits_for_room() -> None:
    """A full inbox holds its writer until something is taken."""
    inbox: Inbox[str] = Inbox(3 * ITEM_BYTES)
    passed = threading.Event()

    def write() -> None:
        for item in "abcd":
            inbox.put(item)
        passed.set()

    threading.Thread(target=write, daemon=True).start()
    assert not passed.wait(0.1)
    assert inbox.take(1, 10**6) == ["a"]
    assert passed.wait(5)
    assert inbox.take(10, 10**6) == ["b", "c", "d"]


def test_item_larger_than_the_inbox() -> None:
    """What is larger than all room passes alone instead of never."""
    inbox: Inbox[str] = Inbox(10)
    assert inbox.put("large", 1000)
    assert inbox.take(5, 10) == ["large"]


def test_take_is_bounded_by_bytes() -> None:
    """A batch ends before the item that would make it too large."""
    inbox: Inbox[str] = Inbox(10**6)
    for item in "abc":
        inbox.put(item, 4000)
    assert inbox.take(10, 2 * (4000 + ITEM_BYTES)) == ["a", "b"]


def test_latest_replaces_its_like() -> None:
    """Only the last of several idle notes waits, and in its place in the order."""
    inbox: Inbox[int | str] = Inbox(10**6)
    for item in (1, 2):
        inbox.put_latest(item)
    inbox.put("event")
    inbox.put_latest(3)
    assert inbox.take(10, 10**6) == [2, "event", 3]


def test_closing_frees_the_writer() -> None:
    """A writer that waits for room learns that nobody reads any more."""
    inbox: Inbox[str] = Inbox(1)
    inbox.put("a")
    answers: list[bool] = []
    writer = threading.Thread(target=lambda: answers.append(inbox.put("b")))
    writer.start()
    inbox.close()
    writer.join(5)
    assert answers == [False]


def test_page_size_follows_the_work() -> None:
    """Short work on full pages doubles them, long work halves them, within the bounds."""
    now = [0.0]
    page = PageSize(20, clock=lambda: now[0])

    def work(seconds: float, documents: int) -> int:
        page.took(documents)
        now[0] += seconds
        page.returned()
        return page.documents

    assert page.documents == 8
    assert work(0.01, 8) == 16
    assert work(0.01, 3) == 16
    assert work(0.01, 16) == 20
    assert work(0.4, 20) == 20
    assert [work(0.6, 20) for _ in range(6)] == [10, 5, 2, 1, 1, 1]
