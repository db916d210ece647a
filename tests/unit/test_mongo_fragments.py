"""Change events in fragments, as MongoDB from 6.0.9 on sends those larger than a reply."""

from __future__ import annotations

from connectors.mongo_fragments import Fragments, Whole

FIRST = {
    "_id": {"_data": "1"},
    "splitEvent": {"fragment": 1, "of": 3},
    "operationType": "update",
    "clusterTime": 7,
}
SECOND = {
    "_id": {"_data": "2"},
    "splitEvent": {"fragment": 2, "of": 3},
    "fullDocument": {"_id": 1},
}
THIRD = {"_id": {"_data": "3"}, "splitEvent": {"fragment": 3, "of": 3}, "ns": {"coll": "a"}}
WHOLE = {
    "_id": {"_data": "3"},
    "operationType": "update",
    "clusterTime": 7,
    "fullDocument": {"_id": 1},
    "ns": {"coll": "a"},
}


def test_fragments_become_one_event() -> None:
    """All fields, the size of all, and the token of the last: only that one is behind all."""
    fragments = Fragments()
    assert fragments.add(FIRST, 10) is None
    assert fragments.pending
    assert fragments.add(SECOND, 5) is None
    assert fragments.add(THIRD, 1) == Whole(WHOLE, 16)
    assert not fragments.pending


def test_events_that_are_whole() -> None:
    """One that is not split, or is its only fragment, passes; nothing of it stays behind."""
    fragments = Fragments()
    single = {"_id": {"_data": "1"}, "splitEvent": {"fragment": 1, "of": 1}, "ns": {}}
    assert fragments.add({"_id": {"_data": "0"}, "x": 1}, 4) == Whole(
        {"_id": {"_data": "0"}, "x": 1}, 4
    )
    assert fragments.add(single, 5) == Whole({"_id": {"_data": "1"}, "ns": {}}, 5)


def test_fragments_that_come_again() -> None:
    """After a break in the middle, what had come is forgotten."""
    fragments = Fragments()
    fragments.add(FIRST | {"left": "over"}, 10)
    fragments.clear()
    for fragment in (FIRST, SECOND):
        fragments.add(fragment, 1)
    assert fragments.add(THIRD, 1) == Whole(WHOLE, 3)
