"""HTTP/1.1 as bytes: builds request heads, and parses responses without joining the pieces of their bodies.

Source: RFC 9112. Parses only the parts that a response needs, so that bodies and headers reach the client unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import TypeAlias

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

_ONLY_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,15}")
_MAX_HEAD = 64 << 10
_MAX_CHUNK_LINE = 256
_MAX_HELD = 1 << 20
_MAX_DIGITS = 18
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that concern one connection only (RFC 9110, 7.6.1)."""


class ProtocolError(Exception):
    """The engine's response is not valid HTTP."""


class Head:
    """Status line and headers of a response."""

    __slots__ = ("_first", "headers", "reason", "status")

    def __init__(self, status: int, reason: str, headers: RawHeaders) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._first = {name.lower(): value for name, value in reversed(headers)}

    def get(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        return self._first.get(name)

    @property
    def is_event_stream(self) -> bool:
        return (self.get(b"content-type") or b"").lower().startswith(b"text/event-stream")

    @property
    def takes_events(self) -> bool:
        """Whether events can be added to its body."""
        is_plain = self.get(b"content-encoding") in {None, b"identity"} and self.get(b"content-length") is None
        return self.is_event_stream and is_plain

    @property
    def is_json(self) -> bool:
        return (self.get(b"content-type") or b"").lower().startswith(b"application/json")


def end_to_end(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """The headers without connection headers, including those that `Connection` names."""
    named = {
        name.strip().lower() for key, value in headers if key.lower() == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if (name := key.lower()) not in HOP_BY_HOP and name not in named]


def request_head(method: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request before its body."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode("ascii"), target.encode("utf-8", "surrogateescape"), lines)


def response_head(head: Head, added: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a response before its body: the status line and end-to-end headers of `head`, and added headers.

    An added header replaces those of the same name.
    """
    replaced = {name.lower() for name, _ in added}
    kept = [header for header in end_to_end(head.headers) if header[0].lower() not in replaced]
    lines = b"".join([b"%b: %b\r\n" % header for header in (*kept, *added)])
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason.encode("latin-1"), lines)


class _Body(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNKED = auto()
    TRAILERS = auto()
    UNTIL_CLOSE = auto()
    COMPLETE = auto()


class ResponseParser:
    """Parses the bytes of one response into its head and decoded pieces of its body.

    Pieces of an event stream are whole chunks, since engines send one event per chunk: an incomplete chunk is buffered.
    """

    def __init__(self, method: str) -> None:
        self.head: Head | None = None
        self.keep_alive = False
        self._method = method
        self._state = _Body.HEAD
        self._buffer = b""
        self._left = 0
        self._whole_chunks = False

    @property
    def is_complete(self) -> bool:
        return self._state is _Body.COMPLETE

    def feed(self, data: bytes) -> bytes:
        """Parses further bytes and returns the decoded body bytes. Raises ProtocolError."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self._state is _Body.HEAD:
            data = self._read_head(data)
        match self._state:
            case _Body.LENGTH:
                return self._read_length(data)
            case _Body.CHUNKED:
                return self._read_chunks(data)
            case _Body.TRAILERS:
                self._read_trailers(data)
            case _Body.UNTIL_CLOSE:
                return data
            case _Body.COMPLETE:
                if data:
                    raise ProtocolError("bytes after the end of the response")
        return b""

    def are_whole_chunks(self, data: bytes) -> bool:
        """Whether the next bytes are whole chunks, none of them the last: then they can pass with their framing."""
        if self._state is not _Body.CHUNKED or self._buffer or self._left:
            return False
        at, size = 0, len(data)
        while at < size:
            line = _ONLY_SIZE.match(data, at)
            if line is None or not (length := int(line[1], 16)):
                return False
            at = line.end() + length + 2
        return at == size and data.endswith(b"\r\n")

    def end(self) -> None:
        """Handles the end of the connection. Raises ProtocolError if the response is incomplete."""
        if self._state is _Body.UNTIL_CLOSE:
            self._state = _Body.COMPLETE
        if self._state is not _Body.COMPLETE:
            raise ProtocolError("the connection ended within the response")

    def _read_head(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MAX_HEAD:
                raise ProtocolError("the headers are too large")
            self._buffer = data
            return b""
        first, *lines = data[:end].split(b"\r\n")
        if data.count(b"\n", 0, end) > len(lines) or data.count(b"\r", 0, end) > len(lines):
            raise ProtocolError("the headers hold a lone line break")
        version, _, rest = first.partition(b" ")
        status, _, reason = rest.partition(b" ")
        if version not in {b"HTTP/1.1", b"HTTP/1.0"} or len(status) != 3 or not status.isdigit():
            raise ProtocolError("the status line is not valid")
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise ProtocolError("a header is not valid")
            headers.append((name, value.strip(b" \t")))
        rest = data[end + 4 :]
        if int(status) < 200:  # an interim response, such as 100 Continue
            return self._read_head(rest)
        self.head = Head(int(status), reason.decode("latin-1"), _with_one_length(headers))
        self._begin_body(self.head, is_1_0=version == b"HTTP/1.0")
        return rest

    def _begin_body(self, head: Head, *, is_1_0: bool) -> None:
        connection = (head.get(b"connection") or b"").lower()
        self.keep_alive = b"close" not in connection and (not is_1_0 or b"keep-alive" in connection)
        length = head.get(b"content-length")
        if self._method == "HEAD" or head.status in {204, 304}:
            self._state = _Body.COMPLETE
        elif (head.get(b"transfer-encoding") or b"").lower().endswith(b"chunked"):
            self._state = _Body.CHUNKED
            self._whole_chunks = head.is_event_stream
        elif length is not None:
            if not length.isdigit() or len(length) > _MAX_DIGITS:
                raise ProtocolError("Content-Length is not a number")
            self._left = int(length)
            self._state = _Body.LENGTH if self._left else _Body.COMPLETE
        else:
            self._state = _Body.UNTIL_CLOSE
            self.keep_alive = False

    def _read_length(self, data: bytes) -> bytes:
        if len(data) > self._left:
            raise ProtocolError("the body is longer than its Content-Length")
        self._left -= len(data)
        if not self._left:
            self._state = _Body.COMPLETE
        return data

    def _read_chunks(self, data: bytes) -> bytes:
        """Decodes chunks. `_left` is the number of missing bytes of a chunk and its line end, 0 between chunks."""
        at, size = 0, len(data)
        if not self._left and (line := _ONLY_SIZE.match(data)) is not None:
            start, length = line.end(), int(line[1], 16)
            if length and start + length + 2 == size:  # exactly one chunk, as engines send events
                return data[start:-2]
        parts: list[bytes] = []
        while at < size:
            if self._left:
                taken = min(self._left, size - at)
                parts.append(data[at : at + max(0, min(taken, self._left - 2))])
                self._left -= taken
                at += taken
                continue
            line_end = data.find(b"\r\n", at, at + _MAX_CHUNK_LINE)
            if line_end < 0:
                if size - at >= _MAX_CHUNK_LINE:
                    raise ProtocolError("the size of a chunk is not valid")
                break
            length = _chunk_size(data[at:line_end])
            start = line_end + 2
            if length == 0:
                self._state = _Body.TRAILERS
                self._read_trailers(data[start:])
                return b"".join(parts)
            if start + length + 2 <= size:
                parts.append(data[start : start + length])
                at = start + length + 2
            elif self._whole_chunks and length < _MAX_HELD:
                break
            else:
                self._left, at = length + 2, start
        self._buffer = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_trailers(self, data: bytes) -> None:
        """Skips trailers up to the empty line."""
        if data.startswith(b"\r\n") or b"\r\n\r\n" in data:
            self._state = _Body.COMPLETE
        elif len(data) > _MAX_HEAD:
            raise ProtocolError("the trailers are too large")
        else:
            self._buffer = data


def _with_one_length(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with at most one Content-Length, and none beside Transfer-Encoding (RFC 9112, 6.3).

    Raises ProtocolError if they name several lengths.
    """
    names = [name.lower() for name, _ in headers]
    if names.count(b"content-length") + (b"transfer-encoding" in names) <= 1:
        return headers
    lengths = [header for header, name in zip(headers, names, strict=True) if name == b"content-length"]
    if len({value for _, value in lengths}) > 1:
        raise ProtocolError("there are several Content-Lengths")
    others = [header for header, name in zip(headers, names, strict=True) if name != b"content-length"]
    return others if b"transfer-encoding" in names else [*others, lengths[0]]


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not _HEXADECIMAL.fullmatch(digits):
        raise ProtocolError("the size of a chunk is not valid")
    return int(digits, 16)
