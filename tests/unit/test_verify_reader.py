"""What the reader does about an `_id` that can be read and not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.mongo import MongoScope, connect
from connectors.mongo_reader import MongoReader

BROKEN = "\udce4"
"""The byte E4 alone, as the driver hands out strings that are not UTF-8."""


class Canned(MongoReader):
    """Answers every query with the same three documents."""

    asked: list[Any]

    def _find(
        self, collection: str, wanted: Any, projection: Any, **options: Any
    ) -> Iterator[list[dict[str, Any]]]:
        self.asked.append(wanted)
        yield [{"_id": "a"}, {"_id": BROKEN}, {"_id": "\udce5"}]


def test_an_id_of_broken_utf8_is_found_by_reading() -> None:
    """The driver refuses to send it, so its collection is read; the others are not asked for."""
    with connect("mongodb://127.0.0.1:1/", app_name="tests") as client:
        reader = Canned(client, MongoScope(database="d"))
        reader.asked = []
        assert reader.find_existing("notes", [BROKEN]) == [BROKEN]
        assert reader.asked == [{}]
