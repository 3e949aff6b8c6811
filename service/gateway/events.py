"""The events of a stream as its bytes pass: where one ends, one that tells a failure, and one that is left out.

Engines send one event per chunk. Servers between them and this one may cut events anywhere.
"""

from __future__ import annotations

import re
from typing import Final

from service.gateway.failures import Failure, failure_in, may_tell_failure

_ENDS: Final = (b"\n\n", b"\n\r\n")
_FRAMED_ENDS: Final = (b"\n\n\r\n", b"\n\r\n\r\n")
_USAGE: Final = b'"usage"'
_USAGE_EVENT: Final = re.compile(rb'data: ?\{[^\r\n]*"choices":\s*\[\][^\r\n]*\}\r?\n\r?\n')
_EARLY: Final = rb"event: ?(?:response\.(?:created|in_progress|queued)|ping)\r?\n"
_BEFORE_ANSWER: Final = re.compile(rb"(?:(?::[^\r\n]*|" + _EARLY + rb"data:[^\r\n]*|)\r?\n)*")
"""Comments, and events that engines send before they compute the prompt."""
_MAYBE_BEFORE: Final = re.compile(
    rb"(?::[^\r\n]*|e?v?e?n?t?|event:[^\r\n]*|" + _EARLY + rb"(?:d?a?t?a?|data:[^\r\n]*))\r?"
)
"""An unfinished comment or event of these kinds."""
_MAX_HEAD: Final = 128
"""More than the length of such an event before its data."""
_MAX_KEPT: Final = 16 << 10
"""Bytes that are kept of an event that has not ended."""


class Events:
    """Sees the pieces of one stream in their order, whatever they are cut into."""

    def __init__(self, *, hides_usage: bool = False) -> None:
        """`hides_usage` leaves out the event that `include_usage` adds, which has no choices."""
        self._hides_usage = hides_usage
        self._begun = b""
        """The beginning of an event whose end has not arrived; it is held back if the usage is hidden."""
        self.failure: Failure | None = None
        """The first failure that an event tells; what comes after it is left out."""

    @property
    def is_between(self) -> bool:
        """Whether all that was passed on are whole events."""
        return self._hides_usage or not self._begun

    def may_pass(self, chunks: bytes) -> bool:
        """Whether whole chunks, with their framing, need not be looked at."""
        return (
            self.failure is None
            and not self._begun
            and chunks.endswith(_FRAMED_ENDS)
            and not may_tell_failure(chunks)
            and not (self._hides_usage and _USAGE in chunks)
        )

    def passed(self, piece: bytes) -> bytes:
        """Returns the bytes to pass on of a piece, and of those held back before it."""
        begun = self._begun
        data = begun + piece if begun else piece
        self.failure = failure_in(data)
        if self.failure is not None:
            position = self.failure.position
            if position >= len(begun) or self._hides_usage:
                self._begun = b""
            return self._shown(data[:position]) if self._hides_usage else data[len(begun) : position]
        end = _end_of_events(data)
        self._begun = data[end:][-_MAX_KEPT:]
        if not self._hides_usage:
            return piece
        if len(data) - end > _MAX_KEPT:  # no event with a usage is that long
            end, self._begun = len(data), b""
        return self._shown(data[:end])

    def rest(self) -> bytes:
        """Returns the bytes that were held back, at the end of the stream."""
        rest, self._begun = self._begun, b""
        return rest if self._hides_usage else b""

    def _shown(self, events: bytes) -> bytes:
        return _USAGE_EVENT.sub(b"", events) if _USAGE in events else events


def before_answer(events: bytes) -> bytes | None:
    """None if the first events of a stream tell that the prompt is computed, as the first token does.

    Otherwise, what has to stand before the next piece to tell it; it is short.
    """
    rest = _BEFORE_ANSWER.sub(b"", events, count=1)
    if _MAYBE_BEFORE.fullmatch(rest) is None:
        return None
    return rest if len(rest) <= _MAX_HEAD else rest[:_MAX_HEAD] + rest[-1:]


def _end_of_events(data: bytes) -> int:
    """The position behind the last event that has ended."""
    if data.endswith(_ENDS):
        return len(data)
    return max((at + len(end) for end in _ENDS if (at := data.rfind(end)) >= 0), default=0)
