"""What a worker process of `flows.parallel` does, and what passes between it and the flow.

A program of its own: one BSON document a message, in on standard input, out on standard output.
First comes what its chunker is made of, then one document after the other. It keeps nothing but
token counts, and ends at once when its input ends, also when the flow was killed.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, BinaryIO

import bson
from bson.errors import BSONError

from flows.steps import prepare
from models.records import Chunk, Document, Failed, Failure, Key, Part, Revision, Version
from models.tokenizing import tokenizer_of
from transforms.chunk import Chunker

NOT_WRITABLE = (BSONError, UnicodeError, OverflowError)
"""A text that is no Unicode, or more than 2 GB."""


def encode_start(tokenizer: str, max_tokens: int) -> bytes:
    """The first message: what the chunker is made of (see `models.tokenizing`)."""
    return bson.encode({"tokenizer": tokenizer, "max_tokens": max_tokens})


def encode_revision(revision: Revision) -> bytes:
    """What cleaning and chunking read of it. Raises one of `NOT_WRITABLE`."""
    return bson.encode(
        {
            "key": list(revision.key),
            "version": list(revision.version),
            "title": revision.document.title,
            "parts": [[part.content_type, part.content] for part in revision.document.parts],
        }
    )


def decode_revision(message: Mapping[str, Any]) -> Revision:
    """As much of the revision as `encode_revision` wrote."""
    parts = [Part(content_type=kind, content=content) for kind, content in message["parts"]]
    key = Key(*message["key"])
    return Revision(
        key=key,
        version=Version(*message["version"]),
        document=Document(key=key, title=message["title"], parts=tuple(parts), metadata={}),
        digest="",
        metadata_digest="",
    )


def encode_result(result: Revision | Failed) -> bytes:
    """The chunks, or the failure."""
    if isinstance(result, Failed):
        return bson.encode({"failed": [result.failure.step, result.failure.reason]})
    chunks = result.chunks or ()
    return bson.encode(
        {"chunks": [[c.text, None if c.input == c.text else c.input, c.headings] for c in chunks]}
    )


def decode_result(revision: Revision, message: Mapping[str, Any]) -> Revision | Failed:
    """`revision` with its chunks, or why it has none."""
    if "failed" in message:
        step, reason = message["failed"]
        failure = Failure(step=step, reason=reason)
        return Failed(key=revision.key, version=revision.version, failure=failure)
    chunks = tuple(
        Chunk(text=text, input=text if read is None else read, headings=tuple(headings))
        for text, read, headings in message["chunks"]
    )
    return revision.model_copy(update={"chunks": chunks, "blocks": None})


def main() -> None:
    """Answer until the input ends."""
    # Its starter ends it, by closing the pipe: a Ctrl-C or a service's stop is not for it.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process is enough
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, messages), daemon=True).start()
    start = messages.get()
    chunker = Chunker(tokenizer_of(start["tokenizer"]), start["max_tokens"])
    _send(answers, bson.encode({"fingerprint": chunker.fingerprint}))
    while True:
        _send(answers, _answer(messages.get(), chunker))


def _receive(stream: BinaryIO, messages: queue.SimpleQueue[dict[str, Any]]) -> None:
    """In a thread, so that the end of the input is seen in the middle of a long document."""
    try:
        for message in bson.decode_file_iter(stream):
            messages.put(message)
    finally:
        os._exit(0)


def _answer(message: Mapping[str, Any], chunker: Chunker) -> bytes:
    result = prepare(decode_revision(message), chunker)
    try:
        return encode_result(result)
    except NOT_WRITABLE as error:
        failure = Failure(step="clean", reason=f"its text cannot be written: {error}"[:500])
        return encode_result(Failed(key=result.key, version=result.version, failure=failure))


def _send(answers: BinaryIO, message: bytes) -> None:
    try:
        answers.write(message)
        answers.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the interpreter's own end would wait for the thread that reads
