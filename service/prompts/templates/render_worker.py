"""The process that renders untrusted or slow chat templates: bounded in memory, killed on timeout.

Reads jobs from standard input and answers on standard output, one at a time; `render_processes` is the other end. Has
no environment variables and no secrets.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import jinja2
import msgspec

from service.prompts.templates.content_format import content_format
from service.prompts.templates.environment import ChatEnvironment

REQUEST = struct.Struct("!Q")
ANSWER = struct.Struct("!cQ")
READY, TEXT, ERROR = b"R", b"T", b"E"
_MSGPACK, _JSON = b"M", b"J"

_MEMORY_BYTES = 512 << 20
_MAX_ERROR_CHARACTERS = 1000
_GRACE_SECONDS = 2.0


class Job(NamedTuple):
    """A template to render into at most `max_characters`, within `seconds`.

    Without variables, the answer is the template's content format.
    """

    source: str
    variables: dict[str, Any] | None
    max_characters: int
    seconds: float


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
    _bound_this_process()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while head := requests.read(REQUEST.size):
        (size,) = REQUEST.unpack(head)
        try:
            job = unpacked(requests.read(size))
        except (MemoryError, RecursionError):
            _answer(answers, ERROR, "its variables are too large or nested too deep")
            continue
        # Ends this process if the parent has died.
        signal.setitimer(signal.ITIMER_REAL, job.seconds + _GRACE_SECONDS)
        _answer(answers, *_outcome(job))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _outcome(job: Job) -> tuple[bytes, str]:
    try:
        if job.variables is None:
            return TEXT, content_format(ChatEnvironment().parse(job.source))
        return TEXT, _render(job.source, job.variables, job.max_characters)
    except MemoryError:
        return ERROR, "it takes too much memory"
    except RecursionError:
        return ERROR, "it calls itself too deeply"
    except Exception as error:  # a template may fail in any way
        return ERROR, str(error)[:_MAX_ERROR_CHARACTERS] or type(error).__name__


def _render(source: str, variables: dict[str, Any], max_characters: int) -> str:
    pieces = []
    left = max_characters
    for piece in _compiled(source).generate(variables):
        left -= len(piece)
        if left < 0:
            raise ValueError(f"it renders more than {max_characters} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return ChatEnvironment().from_string(source)


def _answer(answers: BinaryIO, kind: bytes, text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    answers.write(ANSWER.pack(kind, len(body)) + body)
    answers.flush()


def _bound_this_process() -> None:
    for limit, value in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (value, value))
