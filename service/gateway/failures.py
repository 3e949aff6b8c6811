"""Answers that an engine ends as if they were complete, although it has failed.

vLLM 0.32 ends running requests with `finish_reason` "abort" on SIGTERM, and with an error event if its core dies; both
under status 200, and a proper end after them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_ABORT = b'"abort"'
_ERROR_START = b'{"error"'
_ABORTED = re.compile(rb'"finish_reason":\s*"abort"')
_ERROR = re.compile(rb'^data: ?(\{"error".*)$', re.MULTILINE)
_SHUTTING_DOWN = "the engine aborted the request, as it does when it shuts down"
_MAX_REASON = 300


class Failure(NamedTuple):
    """`position` is that of the event, or of the body, that tells the failure."""

    position: int
    reason: str


class _Error(msgspec.Struct):
    message: str = ""
    code: object = None


class _ErrorEvent(msgspec.Struct):
    error: _Error


_error_event = msgspec.json.Decoder(_ErrorEvent)


def may_tell_failure(body: bytes) -> bool:
    """Whether `failure_in` has to look; fast."""
    return _ABORT in body or _ERROR_START in body


def failure_in(body: bytes) -> Failure | None:
    """The failure that a body, or some events of a stream, tell; None for an error of the client."""
    if _ABORT in body and (aborted := _ABORTED.search(body)) is not None:
        return Failure(max(0, body.rfind(b"data:", 0, aborted.start())), _SHUTTING_DOWN)
    if _ERROR_START in body and (found := _ERROR.search(body)) is not None:
        try:
            error = _error_event.decode(found[1]).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if isinstance(error.code, int) and error.code >= 500:
            return Failure(found.start(), error.message[:_MAX_REASON])
    return None
