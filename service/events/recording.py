"""Recorded event streams: JSON lines of `{"pod", "topic", "seq", "payload"}`, the last three base64 of the frames."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from service.index.base import Rank

_MOST_MALFORMED_LINES = 100


class NotARecording(Exception):
    """A file has lines, and none of them is a message."""


class Recorded(NamedTuple):
    """One published message; `pod` is the recorder's name for the engine."""

    pod: str
    topic: bytes
    sequence: int
    payload: bytes


class _Line(msgspec.Struct):
    pod: str
    topic: str
    seq: str
    payload: str


class Recording(msgspec.Struct):
    """Iterates over the messages of a recording, in recorded order.

    Skips unreadable lines: `malformed` counts them, and `malformed_lines` has the numbers of the first ones, from 1.
    Raises NotARecording at the end if there are lines and none is a message. `line` is the number of the line read
    last.
    """

    lines: Iterable[bytes]
    malformed: int = 0
    malformed_lines: list[int] = msgspec.field(default_factory=list)
    line: int = 0

    def __iter__(self) -> Iterator[Recorded]:
        decode = msgspec.json.Decoder(_Line).decode
        messages = 0
        for self.line, line in enumerate(self.lines, 1):  # noqa: B020 - the number of it and its text
            if not line.strip():
                continue
            try:
                message = _message(decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError):
                self.malformed += 1
                if len(self.malformed_lines) < _MOST_MALFORMED_LINES:
                    self.malformed_lines.append(self.line)
            else:
                messages += 1
                yield message
        if self.malformed and not messages:
            raise NotARecording("no line of it is a message of a recording")


def _message(line: _Line) -> Recorded:
    sequence = base64.b64decode(line.seq, validate=True)
    if len(sequence) != 8:
        raise ValueError("a sequence number has eight bytes")
    topic, payload = base64.b64decode(line.topic, validate=True), base64.b64decode(line.payload, validate=True)
    return Recorded(line.pod, topic, int.from_bytes(sequence, "big"), payload)


def recorded_pod(rank: Rank) -> str:
    """The name of a rank in a recording: the pod, and `#dpN` for a data-parallel rank above 0."""
    return f"{rank.pod}#dp{rank.number}" if rank.number else rank.pod


def recorded_line(message: Recorded) -> bytes:
    """The JSON line of a message, with its newline."""
    frames = (message.topic, message.sequence.to_bytes(8, "big"), message.payload)
    topic, sequence, payload = (base64.b64encode(frame).decode() for frame in frames)
    return msgspec.json.encode(_Line(message.pod, topic, sequence, payload)) + b"\n"
