"""The process that renders untrusted or slow chat templates."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
import msgspec

from service.prompts.templates.content_format import content_format
from service.prompts.templates.environment import ChatEnvironment, too_many
from service.prompts.workers.serving import serve

_MSGPACK, _JSON = b"M", b"J"
_MEMORY_BYTES = 512 << 20


class Job(NamedTuple):
    """A template to render into at most `max_characters`.

    Without variables, the answer is the template's content format.
    """

    source: str
    variables: dict[str, Any] | None
    max_characters: int


def packed(job: Job) -> bytes:
    """Encodes a job as bytes; raises RecursionError if it is nested too deeply."""
    try:
        return _MSGPACK + msgspec.msgpack.encode(job)
    except (OverflowError, UnicodeEncodeError):
        # Much slower, but supports integers of any size and lone surrogates.
        return _JSON + json.dumps(job).encode()


def unpacked(data: bytes) -> Job:
    return Job(*(msgspec.msgpack.decode(data[1:]) if data[:1] == _MSGPACK else json.loads(data[1:])))


def main() -> None:
    """Serves until standard input ends."""
    serve(_work, _MEMORY_BYTES)


def _work(data: bytes) -> bytes:
    try:
        job = unpacked(data)
    except (MemoryError, RecursionError):
        raise ValueError("its variables are too large or nested too deep") from None
    if job.variables is None:
        return content_format(ChatEnvironment().parse(job.source)).encode()
    return _render(job.source, job.variables, job.max_characters).encode("utf-8", "surrogatepass")


def _render(source: str, variables: dict[str, Any], max_characters: int) -> str:
    pieces = []
    left = max_characters
    for piece in _compiled(source).generate(variables):
        left -= len(piece)
        if left < 0:
            raise ValueError(too_many(max_characters))
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return ChatEnvironment().from_string(source)
