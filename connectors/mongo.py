"""Gateway to MongoDB: connecting, checks before the start, cluster time, resume tokens.

Documents are always decoded through `database()`, so that every part sees the same values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp as BsonTimestamp
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from connectors.mongo_errors import SERVICE, translate, translated
from models.records import Record, Timestamp
from syncline.errors import Misconfigured

__all__ = [
    "SERVICE",
    "Client",
    "Fields",
    "MongoScope",
    "check",
    "cluster_time",
    "connect",
    "database",
    "decode",
    "just_below",
    "list_collections",
    "raw_options",
    "timestamp",
    "token_time",
    "translate",
    "translated",
]

Fields = dict[str, Any]
Client = MongoClient[Fields]

SERVER_SELECTION_SECONDS = 2.0
"""Waiting is done by our own retry, which a stop interrupts and `/readyz` shows."""
HEARTBEAT_SECONDS = 5.0
CONNECT_SECONDS = 10.0
"""A server that no longer answers is noticed within the sum of both: the driver's own monitor asks
it that often on a connection of its own, waits so long, and then cuts all other connections."""
SOCKET_SECONDS = 600.0
"""One connection that is dead while the monitor's is not. Long, because a first answer may take
that long where the server has to read through a large oplog, and would then never arrive."""
OPERATIONS = (
    *("insert", "update", "replace", "delete"),
    *("drop", "rename", "dropDatabase", "invalidate"),
)
"""What the change stream is asked for; everything else changes no document."""


class MongoScope(Record):
    """What is read: one database, all or some collections, whole documents or most of them."""

    database: str
    collections: tuple[str, ...] = ()
    """Empty: every collection of the database, also those to come."""
    exclude_fields: tuple[str, ...] = ()
    """Dotted paths of fields that the server leaves out before a document travels."""

    def includes(self, collection: str) -> bool:
        """Whether a collection is read. Those of the server itself never are."""
        if collection.startswith("system."):
            return False
        return not self.collections or collection in self.collections

    def pipeline(self, *, documents: bool = True) -> list[dict[str, Any]]:
        """The server's part of the filtering of change events: namespaces, operations, fields.

        Deletes carry no document, so nothing here may look at one.
        """
        match: dict[str, Any] = {"operationType": {"$in": list(OPERATIONS)}}
        if self.collections:
            names = {"$in": list(self.collections)}
            match["$or"] = [
                {"ns.coll": names},
                {"to.coll": names},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        left_out = [f"fullDocument.{path}" for path in self.exclude_fields]
        if not documents:
            left_out = ["fullDocument"]
        return [
            {"$match": match},
            {"$project": dict.fromkeys(["updateDescription", *left_out], 0)},
        ]

    def projection(self) -> dict[str, int] | None:
        """The same fields left out of a find."""
        return dict.fromkeys(self.exclude_fields, 0) or None


def connect(
    uri: str, *, app_name: str, server_selection_seconds: float = SERVER_SELECTION_SECONDS
) -> Client:
    """A client with majority read concern, aware dates and standard UUIDs; opens nothing yet.

    Raises `Misconfigured` if `uri` cannot be used.
    """
    # The driver would take anything else for the name of a host.
    if not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise _unusable("it does not begin with mongodb:// or mongodb+srv://")
    defaults = {
        "uuidRepresentation": "standard",
        "heartbeatFrequencyMS": int(HEARTBEAT_SECONDS * 1000),
        "connectTimeoutMS": int(CONNECT_SECONDS * 1000),
        "socketTimeoutMS": int(SOCKET_SECONDS * 1000),
    }
    # What a URI names, for instance the UUIDs of an old C# or Java driver, it knows better.
    named = uri.lower()
    options: Fields = {name: v for name, v in defaults.items() if f"{name.lower()}=" not in named}
    try:
        return MongoClient(
            uri,
            appname=app_name,
            tz_aware=True,
            datetime_conversion="DATETIME_AUTO",
            readConcernLevel="majority",
            serverSelectionTimeoutMS=int(server_selection_seconds * 1000),
            **options,
        )
    except (PyMongoError, ValueError, TypeError) as error:
        # The driver's words may quote a part of a password.
        reason = "special characters of user and password must be percent-encoded"
        raise _unusable(reason if "@" in uri else str(error)) from error


def _unusable(reason: str) -> Misconfigured:
    return Misconfigured(
        f"mongo.uri is not a usable MongoDB address: {reason}",
        "write mongodb://host:port/?replicaSet=name or mongodb+srv://...",
    )


def database(client: Client, name: str) -> Database[Fields]:
    """A database whose documents are decoded as Syncline does it everywhere.

    Broken UTF-8 becomes lone surrogates, dates out of Python's range become `DatetimeMS`: nothing
    that is stored can stop a whole batch. Reads go to the primary, as the change stream does.
    """
    options: CodecOptions[Fields] = client.codec_options.with_options(
        tz_aware=True,
        unicode_decode_error_handler="surrogateescape",
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )
    return client.get_database(
        name,
        codec_options=options,
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
    )


def decode(raw: bytes, options: CodecOptions[Fields]) -> Fields:
    """One BSON document. UUIDs of a wrong length, which the driver refuses, stay binary values."""
    try:
        return bson.decode(raw, options)
    except InvalidBSON:
        lenient = options.with_options(uuid_representation=UuidRepresentation.UNSPECIFIED)
        return bson.decode(raw, lenient)


def raw_options(options: CodecOptions[Fields]) -> CodecOptions[RawBSONDocument]:
    """The same for arguments, but answers stay BSON, so that their sizes are known."""
    raw: CodecOptions[RawBSONDocument] = options.with_options(document_class=RawBSONDocument)
    return raw


# --- checks ---------------------------------------------------------------------------------------


def check(client: Client, scope: MongoScope) -> None:
    """Make sure that `scope` can be followed, before anything starts.

    Raises `Misconfigured` with the remedy (no replica set, missing rights, a view, ...) or
    `Unavailable` when no server answers.
    """
    _check_fields(scope)
    with translated():
        _check_topology(client.admin.command("hello"))
        _check_views(client, scope)
        source = database(client, scope.database)
        source.command("find", _any_collection(scope), limit=1, singleBatch=True)
        with source.watch(scope.pipeline(), max_await_time_ms=1) as stream:
            stream.try_next()


def _check_fields(scope: MongoScope) -> None:
    for path in scope.exclude_fields:
        parents = {path.rsplit(".", n)[0] for n in range(1, path.count(".") + 1)}
        if path == "_id" or path.startswith(("_id.", "$")) or not all(path.split(".")):
            raise Misconfigured(
                f"mongo.exclude_fields: {path!r} cannot be left out", "name other fields"
            )
        if parents & set(scope.exclude_fields):
            raise Misconfigured(
                f"mongo.exclude_fields: {path!r} lies within another excluded field",
                "name only the outer one",
            )


def _check_topology(hello: Mapping[str, Any]) -> None:
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise Misconfigured(
            "this MongoDB server is standalone, and only a replica set has change streams",
            "start mongod with --replSet rs0 and run rs.initiate() once (one member is enough)",
            code="mongo_unfit",
        )


def _check_views(client: Client, scope: MongoScope) -> None:
    for name, kind in _collection_types(client, scope.database).items():
        if name in scope.collections and kind != "collection":
            raise Misconfigured(
                f"mongo.collections: {name!r} is a {kind}, which has no change stream",
                "name the collection behind it",
            )


def list_collections(client: Client, scope: MongoScope) -> list[str]:
    """The collections that exist now and are read, by name; no views, no time series."""
    with translated():
        types = _collection_types(client, scope.database)
    return sorted(n for n, kind in types.items() if kind == "collection" and scope.includes(n))


def _collection_types(client: Client, name: str) -> dict[str, str]:
    found = client[name].list_collections(nameOnly=True, authorizedCollections=True)
    return {info["name"]: info.get("type", "collection") for info in found}


def _any_collection(scope: MongoScope) -> str:
    """A collection that may be asked for, whether it exists or not."""
    return scope.collections[0] if scope.collections else "syncline"


# --- time -----------------------------------------------------------------------------------------


def cluster_time(client: Client, scope: MongoScope) -> Timestamp:
    """The cluster time that a majority of the servers has committed."""
    with translated():
        # A read under majority concern reports the time of the snapshot it was answered from.
        reply = database(client, scope.database).command(
            "find",
            _any_collection(scope),
            limit=1,
            singleBatch=True,
            projection={"_id": 1},
            readConcern={"level": "majority"},
        )
    return timestamp(reply["operationTime"])


def timestamp(value: BsonTimestamp) -> Timestamp:
    """A BSON timestamp as ours."""
    return Timestamp(value.time, value.inc)


def just_below(time: Timestamp) -> Timestamp:
    """The cluster time before `time`. Increments are 32 bits wide, and begin at 1 a second."""
    if time.increment > 0:
        return Timestamp(time.seconds, time.increment - 1)
    return Timestamp(time.seconds - 1, 2**32 - 1)


def token_time(token: Mapping[str, Any]) -> Timestamp | None:
    """The cluster time within a resume token; None if its format is not known.

    MongoDB's is the hex of a KeyString, which begins with the type byte of a timestamp (0x82) and
    its seconds and increment, big-endian (src/mongo/db/pipeline/resume_token.cpp); SecantusDB's is
    the hex of a BSON document. Neither is promised, so callers compare it with real events.
    """
    try:
        raw = bytes.fromhex(token["_data"])
    except (KeyError, TypeError, ValueError):
        return None
    if raw[:1] == b"\x82" and len(raw) >= 9:
        return Timestamp(*struct.unpack(">II", raw[1:9]))
    try:
        value = bson.decode(raw).get("t")
    except InvalidBSON:
        return None
    return timestamp(value) if isinstance(value, BsonTimestamp) else None
