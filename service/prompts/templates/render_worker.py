"""The process in which chat templates are rendered that are not quick: bounded in memory, and killed when it is late.

It takes requests on its standard input and answers on its standard output, one at a time; `render_processes` is the
other end. It has no environment variables, no network of its own and nothing to lose.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
import time
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import jinja2
import msgspec

from service.prompts.templates.content_format import content_format
from service.prompts.templates.conversation import ContentFormat
from service.prompts.templates.environment import ChatEnvironment
from service.prompts.templates.guarded_environment import GuardedEnvironment
from service.prompts.templates.guarded_syntax import TooMuch

REQUEST = struct.Struct("!Q")
ANSWER = struct.Struct("!cQ")
READY, TEXT, ERROR = b"R", b"T", b"E"
_MSGPACK, _JSON = b"M", b"J"

_MEMORY_BYTES = 512 << 20
_LONGEST_ERROR = 1000
_QUICK_COMPILE_SECONDS = 0.05
_GRACE_SECONDS = 2.0


class Job(NamedTuple):
    """A template to look into (`variables` is None), or to render into at most `most` characters."""

    source: str
    variables: dict[str, Any] | None
    most: int
    seconds: float


def packed(job: Job) -> bytes:
    """Gives a job as bytes, in little time however much is in it; raises RecursionError for one that nests too deep."""
    try:
        return _MSGPACK + msgspec.msgpack.encode(job)
    except (OverflowError, UnicodeEncodeError):
        # This takes numbers of any size and lone surrogates, and several times as long.
        return _JSON + json.dumps(job).encode()


def unpacked(data: bytes) -> Job:
    """The job that `packed` made bytes of."""
    return Job(*(msgspec.msgpack.decode(data[1:]) if data[:1] == _MSGPACK else json.loads(data[1:])))


class Findings(NamedTuple):
    """What there is to know of a template before it is rendered."""

    content_format: ContentFormat
    quick: bool
    """Whether a guarded environment takes it, and compiles it in little time."""


def main() -> None:
    """Serves until the standard input ends."""
    _bound_this_process()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while head := requests.read(REQUEST.size):
        (size,) = REQUEST.unpack(head)
        try:
            job = unpacked(requests.read(size))
        except (MemoryError, RecursionError):
            _answer(answers, ERROR, "what it is given is too large or goes too deep")
            continue
        # Ends this process, unanswered, should the parent not be there to do it.
        signal.setitimer(signal.ITIMER_REAL, job.seconds + _GRACE_SECONDS)
        _answer(answers, *_outcome(job))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _outcome(job: Job) -> tuple[bytes, str]:
    try:
        if job.variables is None:
            return TEXT, json.dumps(_look_into(job.source))
        return TEXT, _render(job.source, job.variables, job.most)
    except MemoryError:
        return ERROR, "it takes too much memory"
    except RecursionError:
        return ERROR, "it calls itself too deeply"
    except Exception as error:  # a template may fail in any way
        return ERROR, str(error)[:_LONGEST_ERROR] or type(error).__name__


def _render(source: str, variables: dict[str, Any], most: int) -> str:
    pieces = []
    left = most
    for piece in _compiled(source).generate(variables):
        left -= len(piece)
        if left < 0:
            raise ValueError(f"it renders more than {most} characters")
        pieces.append(piece)
    return "".join(pieces)


def _look_into(source: str) -> Findings:
    found = content_format(ChatEnvironment().parse(source))
    started = time.process_time()
    try:
        GuardedEnvironment().compiled(source)
    except TooMuch:
        return Findings(found, quick=False)
    return Findings(found, quick=time.process_time() - started < _QUICK_COMPILE_SECONDS)


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return ChatEnvironment().from_string(source)


def _answer(answers: BinaryIO, kind: bytes, text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    answers.write(ANSWER.pack(kind, len(body)) + body)
    answers.flush()


def _bound_this_process() -> None:
    for limit, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (most, most))
