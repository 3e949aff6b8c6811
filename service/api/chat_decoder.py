"""Decodes chat bodies, and reuses the messages of an earlier turn that is a prefix of the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from service.byte_lru import ByteLru
from service.native.backend import messages_end, messages_start

_STEP = 4096
"""Bodies are indexed at multiples of this many bytes."""
_SAMPLE_BYTES = 64
_JSON_KEY_BYTES = 64
_MESSAGE_BYTES = 300
"""Memory of a message besides its values."""

_PLACEHOLDER: Final[list[dict[str, Any]]] = [{}]
"""Placeholder for the known messages while the new ones are decoded."""

_CacheKey: TypeAlias = tuple[int, bytes]
"""Cache key: a multiple of _STEP, and the 64 bytes of the body that end there."""
_Message: TypeAlias = dict[str, Any]


class _HasMessages(Protocol):
    messages: list[_Message]


ChatT = TypeVar("ChatT", bound=_HasMessages)


class _DecodedPrefix(NamedTuple):
    """A body up to the end of its last message, in pieces, and its decoded messages, which are never modified."""

    pieces: tuple[bytes, ...]
    length: int
    messages_start: int
    messages: list[_Message]
    memory: int
    """Size in bytes."""


class ChatDecoder(Generic[ChatT]):
    """Decodes chats. A prefix that was decoded before is only compared, which takes a tenth of the time."""

    def __init__(self, decode: Callable[[bytes], ChatT], capacity: int) -> None:
        """`decode` raises for a body that is not a chat; `capacity` is in bytes, 0 disables the cache."""
        self._decode = decode
        self._prefixes: ByteLru[_CacheKey, _DecodedPrefix] = ByteLru(capacity, lambda _, prefix: prefix.memory)

    @property
    def capacity(self) -> int:
        """Capacity in bytes."""
        return self._prefixes.capacity

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
        return self._prefixes.size_bytes

    def decode(self, body: bytes) -> tuple[ChatT, bytes | None]:
        """Returns the chat, and the bytes before and after its messages: all its other fields; None if not known apart.

        The messages must not be modified. Raises the exceptions of the function given.
        """
        if len(body) < _STEP or not self.capacity:
            return self._decode(body), None
        if (found := self._find(body)) is not None and (rest := self._decode_rest(body, *found)) is not None:
            return rest
        chat = self._decode(body)
        if (start := messages_start(body)) >= 0:
            end, count = messages_end(body, start)
            if count == len(chat.messages) and _has_no_other_messages(body, end):
                memory = end + _memory_of(chat.messages)
                self._keep(body, _DecodedPrefix((body[:end],), end, start, chat.messages, memory))
                return chat, body[:start] + body[end:]
        return chat, None

    def _find(self, body: bytes) -> tuple[_CacheKey, _DecodedPrefix] | None:
        """Finds the longest known prefix of the body."""
        for end in range(len(body) // _STEP * _STEP, 0, -_STEP):
            key = (end, body[end - _SAMPLE_BYTES : end])
            if (prefix := self._prefixes.get(key)) is not None and _starts_with(body, prefix.pieces):
                return key, prefix
        return None

    def _decode_rest(self, body: bytes, key: _CacheKey, prefix: _DecodedPrefix) -> tuple[ChatT, bytes] | None:
        """Decodes the rest of a body after its known prefix; None if the whole body must be decoded."""
        try:
            chat = self._decode(b"%b{}%b" % (body[: prefix.messages_start], body[prefix.length :]))
        except Exception:  # the error must describe the whole body
            return None
        end, count = messages_end(body, prefix.length)
        if chat.messages[:1] != _PLACEHOLDER or len(chat.messages) != count + 1:
            return None
        if not _has_no_other_messages(body, end):
            return None
        added = chat.messages[1:]
        chat.messages = [*prefix.messages, *added]
        if added:
            self._prefixes.discard(key)
            pieces = (*prefix.pieces, body[prefix.length : end])
            memory = prefix.memory + end - prefix.length + _memory_of(added)
            self._keep(body, _DecodedPrefix(pieces, end, prefix.messages_start, chat.messages, memory))
        else:
            self._prefixes.touch(key)
        return chat, body[: prefix.messages_start] + body[end:]

    def _keep(self, body: bytes, prefix: _DecodedPrefix) -> None:
        if end := prefix.length // _STEP * _STEP:
            self._prefixes.put((end, body[end - _SAMPLE_BYTES : end]), prefix)


def _starts_with(body: bytes, pieces: Sequence[bytes]) -> bool:
    at = 0
    for piece in pieces:
        if not body.startswith(piece, at):
            return False
        at += len(piece)
    return True


def _has_no_other_messages(body: bytes, end: int) -> bool:
    """Whether no field after `end` can be named `messages`, including spellings with escapes."""
    return body.find(b'messages"', end) < 0 and body.find(b"\\u00", end) < 0


def _memory_of(messages: Sequence[_Message]) -> int:
    """Size in bytes."""
    values = [value for message in messages for value in message.values()]
    return _MESSAGE_BYTES * len(messages) + sum(
        getsizeof(value) if type(value) is str else _memory_of_json(value) for value in values
    )


def _memory_of_json(value: Any) -> int:
    if type(value) is dict:
        return getsizeof(value) + sum(map(_memory_of_json, value.values())) + _JSON_KEY_BYTES * len(value)
    if type(value) is list:
        return getsizeof(value) + sum(map(_memory_of_json, value))
    return getsizeof(value)
