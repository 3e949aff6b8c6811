"""Counts the values of a large JSON body before it is decoded: `{}` is 2 bytes of JSON and 64 bytes of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

_SLICE_BYTES: Final = 1 << 18
"""A slice takes at most a few milliseconds."""
_CONTAINER_BYTES: Final = 128
_MEMBER_BYTES: Final = 128
_VALUE_BYTES: Final = 48


class JsonShape(msgspec.Struct):
    """Upper bounds of the numbers of values in a JSON text."""

    containers: int = 0
    """Objects and arrays."""
    members: int = 0
    """Members of objects."""
    values: int = 0
    """Values that follow another value in an object or array."""

    @property
    def memory(self) -> int:
        """An estimate of the decoded values' memory in bytes, without their text."""
        return _CONTAINER_BYTES * self.containers + _MEMBER_BYTES * self.members + _VALUE_BYTES * self.values


def count_values(body: bytes, slice_bytes: int = _SLICE_BYTES) -> Iterator[JsonShape]:
    """Yields the counts after each slice of the body; the last one covers the whole body."""
    shape = JsonShape()
    start, in_string = 0, 0
    while start < len(body):
        piece = body[start : start + slice_bytes]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # a slice must not end inside an escape sequence
            piece = body[start : start + len(piece) + 1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= (len(parts) - 1) & 1
        shape.containers += outside.count(b"{") + outside.count(b"[")
        shape.members += outside.count(b":")
        shape.values += outside.count(b",")
        yield shape
