"""Names of things: document keys, canonical ids, point ids.

`_id`s are canonicalised through MongoDB's relaxed Extended JSON. A point id is a uuid5, so that
the same thing has the same id in every run, process and machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import zlib
from typing import Any

from bson import json_util
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError

from models.records import Key, Recipe

_NAMESPACE = uuid.UUID("5f0c9f5e-7d0b-5b8e-9d43-0a5f6f1c7a11")


def _options(mode: int) -> json_util.JSONOptions:
    return json_util.JSONOptions(
        json_mode=mode,
        uuid_representation=UuidRepresentation.STANDARD,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
        tz_aware=True,
    )


_RELAXED = _options(json_util.JSONMode.RELAXED)
_CANONICAL = _options(json_util.JSONMode.CANONICAL)


def encode_id(bson_id: Any) -> str:
    """`_id` as relaxed Extended JSON; a string keeps its quotes, so that "7" is not 7."""
    return _dumps(bson_id, _RELAXED)


def encode_cursor_id(bson_id: Any) -> str:
    """`_id` as canonical Extended JSON, which keeps the exact BSON type for a later query."""
    return _dumps(bson_id, _CANONICAL)


def decode_id(text: str) -> Any:
    """The BSON value of either form of Extended JSON. Raises ValueError if it is none."""
    try:
        return json_util.loads(text, json_options=_CANONICAL)
    except (TypeError, ValueError, ArithmeticError, RecursionError, BSONError) as error:
        raise ValueError(f"not Extended JSON: {text[:200]!r}") from error


def key_of(collection: str, bson_id: Any) -> Key:
    """The key of a source document."""
    return Key(collection, encode_id(bson_id))


def public_id(key: Key) -> str:
    """`_id` as users see it: a plain string for a string, else relaxed Extended JSON."""
    try:
        value = json.loads(key.id)
    except ValueError:  # never ours; but no entry may be impossible to show
        return key.id
    return value if isinstance(value, str) and _is_text(value) else key.id


def key_from_path(collection: str, text: str) -> Key:
    """The key that a user means by `text` (inverse of `public_id`, as far as it can be).

    Extended JSON where it reads as such (a string `_id` that does needs quotes), else a plain
    string `_id`.
    """
    try:
        return key_of(collection, decode_id(text))
    except ValueError:
        return key_of(collection, text)


def key_text(key: Key) -> str:
    """One string for a key, as it is stored."""
    return f"{key.collection}/{key.id}"


def entry_id(key: Key) -> str:
    """Point id of a document's entry."""
    return _uuid("entry", key_text(key))


def floor_id(collection: str) -> str:
    """Point id of a collection's floor."""
    return _uuid("floor", collection)


def single_id(name: str) -> str:
    """Point id of something there is one of: the position, the recipe."""
    return _uuid("single", name)


def recipe_fingerprint(recipe: Recipe) -> str:
    """12 hex digits: equal for recipes that make the same index."""
    return digest(recipe.model_dump_json(exclude={"load"}))[:12]


def index_name(alias: str, recipe: Recipe) -> str:
    """The collection that a recipe's index behind an alias is kept in."""
    return f"{alias}-{recipe_fingerprint(recipe)}"


def is_index_name(alias: str, collection: str) -> bool:
    """Whether `collection` is what `index_name` makes of `alias`."""
    return re.fullmatch(f"{re.escape(alias)}-[0-9a-f]{{12}}", collection) is not None


def chunk_hash(model_input: str) -> str:
    """32 hex digits naming exactly what the model reads."""
    return digest(model_input)


def chunk_id(key: Key, input_hash: str, occurrence: int) -> str:
    """Point id of a chunk: the document, the hash of its input, n-th (0..) such chunk in it.

    Never from the text alone: two documents may share a paragraph.
    """
    return _uuid("chunk", f"{input_hash}/{occurrence}/{key_text(key)}")


def partition_of(key: Key, of: int) -> int:
    """Which of `of` partitions carries this document: CRC-32 of its key, modulo.

    Part of the wire format: writers in other languages must agree on it.
    """
    return zlib.crc32(key_text(key).encode("utf-8", "backslashreplace")) % of


def digest(*texts: str | bytes) -> str:
    """32 hex digits of BLAKE2b over the texts, each preceded by its length."""
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        state.update(len(raw).to_bytes(8, "big"))
        state.update(raw)
    return state.hexdigest()


def _dumps(bson_id: Any, options: json_util.JSONOptions) -> str:
    text = json_util.dumps(bson_id, json_options=options, ensure_ascii=False)
    # Broken UTF-8 arrives as lone surrogates, which only JSON's own escapes can carry.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_text(value: str) -> bool:
    """Whether it can be stored: a lone surrogate, of broken UTF-8, cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _uuid(kind: str, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{kind}:{name}"))
