"""The messages between a hub and the replicas of its machine."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from service.replicas.shared.framing import framed


class Frame(msgspec.Struct, array_like=True, tag=1):
    """To the hub: for all others. From it: of one of them."""

    frame: bytes


class Keep(msgspec.Struct, array_like=True, tag=2):
    key: str
    value: bytes
    seconds: float | None


class Append(msgspec.Struct, array_like=True, tag=3):
    """To the hub: a new entry. From it: one of a log that is followed."""

    log: str
    entry: bytes


class Follow(msgspec.Struct, array_like=True, tag=4):
    log: str


class Unfollow(msgspec.Struct, array_like=True, tag=5):
    log: str


class Linked(msgspec.Struct, array_like=True, tag=6):
    """The first message of the hub: what it keeps."""

    kept: dict[str, bytes]


Message: TypeAlias = Frame | Keep | Append | Follow | Unfollow | Linked

_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode


def encoded(message: Message) -> bytes:
    """The message with its length, as `End.send` takes it."""
    return framed(_encode(message))
