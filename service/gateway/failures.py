"""Answers that an engine ends as if they were complete, although it has failed; and the event that tells a client so.

vLLM 0.32 ends running requests with `finish_reason` "abort" on SIGTERM, and with an error event if its core dies; both
under status 200, and a proper end after them. In Anthropic's form, an aborted message has no `stop_reason`: null in a
stream, absent from a whole message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

_ABORT = b'"abort"'
_NO_STOP = b'{"stop_reason":null'
_MESSAGE = b'"type":"message"'
_ERROR_STARTS = (b'{"error"', b'{"type":"error"')
_ABORTED = re.compile(rb'"finish_reason":\s*"abort"')
_STOPPED = re.compile(
    rb'^(?:event:[^\r\n]*\r?\n)?data: ?\{"type":"message_delta","delta":\{"stop_reason":null', re.MULTILINE
)
_ERROR = re.compile(rb'^(?:event:[^\r\n]*\r?\n)?data: ?(\{(?:"error"|"type":"error").*)$', re.MULTILINE)
_SHUTTING_DOWN = "the engine aborted the request, as it does when it shuts down"
_TYPES_OF_ENGINES = frozenset(("internal_error", "InternalServerError", "api_error", "overloaded_error"))
"""Types of errors without a code that are none of the client's: those of vLLM, and of Anthropic's API."""
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number":\s*(\d{1,15})')
_MAX_REASON = 300
_CODE = "engine_broke_off"


class Failure(NamedTuple):
    """`position` is that of the event, or of the body, that tells the failure."""

    position: int
    reason: str


class _Error(msgspec.Struct):
    message: str = ""
    code: object = None
    type: object = None

    @property
    def is_engines(self) -> bool:
        """Whether the engine is at fault, not the client."""
        return self.code >= 500 if isinstance(self.code, int) else self.type in _TYPES_OF_ENGINES


class _ErrorEvent(msgspec.Struct):
    error: _Error


class _Message(msgspec.Struct):
    type: str = ""
    usage: object = None
    stop_reason: object = None

    @property
    def is_aborted(self) -> bool:
        return self.type == "message" and self.usage is not None and self.stop_reason is None


_message = msgspec.json.Decoder(_Message)
_error_event = msgspec.json.Decoder(_ErrorEvent)


def may_tell_failure(body: bytes) -> bool:
    """Whether `failure_in` has to look; fast."""
    return _ABORT in body or _ERROR_STARTS[0] in body or _ERROR_STARTS[1] in body or _NO_STOP in body


def failure_in(body: bytes) -> Failure | None:
    """The failure that a body, or some events of a stream, tell; None for an error of the client."""
    if _ABORT in body and (aborted := _ABORTED.search(body)) is not None:
        return Failure(max(0, body.rfind(b"data:", 0, aborted.start())), _SHUTTING_DOWN)
    if _NO_STOP in body and (stopped := _STOPPED.search(body)) is not None:
        return Failure(stopped.start(), _SHUTTING_DOWN)
    if body.startswith(b"{") and _MESSAGE in body and _is_aborted_message(body):
        return Failure(0, _SHUTTING_DOWN)
    if any(start in body for start in _ERROR_STARTS) and (found := _ERROR.search(body)) is not None:
        try:
            error = _error_event.decode(found[1]).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if error.is_engines:
            return Failure(found.start(), error.message[:_MAX_REASON])
    return None


def _is_aborted_message(body: bytes) -> bool:
    try:
        return _message.decode(body).is_aborted
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def error_event(path: str, reason: str, before: bytes) -> bytes:
    """The event that ends a stream of `path` whose engine has failed, in the form of that API.

    `before` is the end of the stream so far: events of /v1/responses are numbered.
    """
    message = f"the engine broke off: {reason}"
    data: Mapping[str, object]
    match path:
        case "/v1/messages":  # https://docs.anthropic.com/en/api/messages-streaming
            data = {"type": "error", "error": {"type": "api_error", "message": message}}
        case "/v1/responses":  # https://platform.openai.com/docs/api-reference/responses-streaming/error
            numbers = _SEQUENCE_NUMBER.findall(before)
            number = int(numbers[-1]) + 1 if numbers else 0
            data = {"type": "error", "code": _CODE, "message": message, "param": None, "sequence_number": number}
        case _:
            data = {"error": {"message": message, "type": "server_error", "param": None, "code": _CODE}}
    name = b"event: error\n" if "type" in data else b""
    return b"%bdata: %b\n\n" % (name, msgspec.json.encode(data))
