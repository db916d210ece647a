"""What is refused before anything starts, and how documents are decoded."""

from __future__ import annotations

import bson
import pytest
from bson import DatetimeMS
from bson.binary import Binary

from connectors.mongo import MongoScope, check, connect, decode
from models.ids import encode_id
from syncline.errors import Misconfigured
from tests.servers import Mongo


@pytest.mark.parametrize("uri", ["", "localhost", "http://x", "mongodb://", "mongodb://a:b:c"])
def test_unusable_addresses(uri: str) -> None:
    """An address that is none is refused with an example of one."""
    with pytest.raises(Misconfigured, match=r"mongo\.uri"):
        connect(uri, app_name="tests")


def test_usable_database(mongo: Mongo) -> None:
    """A database that does not exist yet is fine, and so are collections to come."""
    check(mongo.client, mongo.scope)
    check(mongo.client, MongoScope(database=mongo.db.name, collections=("a",)))


def test_view(mongo: Mongo) -> None:
    """A configured view is refused: nothing would ever come from it."""
    mongo.db.create_collection("a")
    mongo.db.command("create", "view", viewOn="a", pipeline=[])
    with pytest.raises(Misconfigured, match="'view' is a view"):
        check(mongo.client, MongoScope(database=mongo.db.name, collections=("view",)))


@pytest.mark.parametrize(
    "fields", [("_id",), ("_id.x",), ("a..b",), ("$a",), ("a", "a.b.c"), ("",)]
)
def test_fields_that_cannot_be_left_out(mongo: Mongo, fields: tuple[str, ...]) -> None:
    """A projection that the server would refuse is refused by name."""
    with pytest.raises(Misconfigured, match=r"mongo\.exclude_fields"):
        check(mongo.client, MongoScope(database=mongo.db.name, exclude_fields=fields))


def test_decoding_never_fails(mongo: Mongo) -> None:
    """Broken UTF-8, a UUID of a wrong length and a date beyond Python's come as marked values."""
    odd = bson.encode({"_id": "broken", "a": Binary(b"123", 7), "d": DatetimeMS(2**60)})
    odd = odd.replace(b"\x03\x00\x00\x00\x07123", b"\x03\x00\x00\x00\x04123")
    found = decode(odd.replace(b"broken", b"br\xffken"), mongo.db.codec_options)
    assert found == {"_id": "br\udcffken", "a": Binary(b"123", 4), "d": DatetimeMS(2**60)}
    assert encode_id(found["_id"]) == '"br\\udcffken"'
