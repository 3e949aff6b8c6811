"""Fields that are added to the JSON body of a request; all its other bytes stay as they are."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_START: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*(?=")')


def with_field(body: bytes, name: str, value: bytes) -> bytes | None:
    """The body with a field before its others; None if it is no object with fields, or has the field already.

    `value` is JSON.
    """
    start = _START.match(body)
    if start is None or _has(body, name):
        return None
    return b'%b"%b":%b,%b' % (body[: start.end()], name.encode(), value, body[start.end() :])


def _has(body: bytes, name: str) -> bool:
    if b'"%b"' % name.encode() not in body:
        return False
    try:
        return name in msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
