"""The loop of a process that works for the service, and is killed on timeout.

Reads jobs from standard input and answers on standard output, one at a time; `process` is the other end. Has no
secrets in its environment.
"""

from __future__ import annotations

import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

REQUEST = struct.Struct("!dQ")
"""Seconds and bytes of a job."""
ANSWER = struct.Struct("!cQ")
"""Kind and bytes of an answer."""
READY, DONE, ERROR = b"R", b"D", b"E"

_MAX_ERROR_CHARACTERS = 1000
_GRACE_SECONDS = 2.0


def serve(work: Callable[[bytes], bytes], memory_bytes: int | None = None) -> None:
    """Answers jobs until standard input ends. Bounds this process's memory, if told to."""
    _bound_this_process(memory_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while head := requests.read(REQUEST.size):
        seconds, size = REQUEST.unpack(head)
        # Ends this process if the parent has died.
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
        _answer(answers, *_outcome(work, requests, size))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _outcome(work: Callable[[bytes], bytes], requests: BinaryIO, size: int) -> tuple[bytes, bytes]:
    try:
        return DONE, work(requests.read(size))
    except MemoryError:
        reason = "it takes too much memory"
    except RecursionError:
        reason = "it calls itself too deeply"
    except Exception as error:  # what strangers chose may fail in any way
        reason = str(error)[:_MAX_ERROR_CHARACTERS] or type(error).__name__
    return ERROR, reason.encode("utf-8", "surrogatepass")


def _answer(answers: BinaryIO, kind: bytes, body: bytes) -> None:
    # In one write: a reader of the start need not wait for the rest.
    answers.write(ANSWER.pack(kind, len(body)) + body)
    answers.flush()


def _bound_this_process(memory_bytes: int | None) -> None:
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
