"""Recorded messages as JSON, to inspect the output of an engine, including unknown fields and damaged payloads.

The service itself decodes events with msgspec, which rejects a damaged payload as a whole. msgpack's streaming reader
returns the values before the damage and its position.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack

from service.events.recording import Recorded

_DAMAGE = (ValueError, msgpack.OutOfData, msgpack.exceptions.StackError)
"""ValueError includes msgpack's FormatError and ExtraData, and text that is not UTF-8."""


def message_line(message: Recorded) -> str:
    """Formats a message as one line of JSON: `pod`, `topic`, `sequence`, `batch`.

    Bytes are written in hexadecimal. If the payload is damaged, `batch` ends before the damage and `damaged` is
    the byte offset of the first unreadable value.
    """
    batch, damage = _read(message.payload)
    shown: dict[str, Any] = {
        "pod": message.pod,
        "topic": message.topic.decode(errors="backslashreplace"),
        "sequence": message.sequence,
        "batch": batch,
    }
    if damage is not None:
        shown["damaged"] = f"byte {damage} of {len(message.payload)}"
    return json.dumps(shown, ensure_ascii=False, default=_hexadecimal)


def _read(payload: bytes) -> tuple[list[Any], int | None]:
    """Returns the readable elements of a batch, and the offset of the first unreadable one."""
    unpacker = msgpack.Unpacker(strict_map_key=False, object_pairs_hook=_json_object, max_buffer_size=len(payload) + 1)
    unpacker.feed(payload)
    batch: list[Any] = []
    try:
        for element in range(unpacker.read_array_header()):
            if element == 1:
                events: list[Any] = []
                batch.append(events)
                for _ in range(unpacker.read_array_header()):
                    events.append(unpacker.unpack())
            else:
                batch.append(unpacker.unpack())
    except _DAMAGE:
        return batch, unpacker.tell()
    return batch, unpacker.tell() if unpacker.tell() < len(payload) else None


def _json_object(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    return {key if isinstance(key, str) else repr(key): value for key, value in pairs}


def _hexadecimal(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
