"""Bodies of chats that were decoded before: the next turn of a chat says the same again, and then a little more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from service.byte_lru import ByteLru
from service.native.backend import messages_end, messages_start

_STEP = 4096
"""Bytes of a body at whose multiples it is looked for."""
_NAME_BYTES = 64
"""What stands there, so long, is what it is looked for by."""
_KEY_BYTES = 64
_MESSAGE_BYTES = 300
"""What a message takes besides its values."""

_STAND_IN: Final[list[dict[str, Any]]] = [{}]
"""What stands for the messages that are known while the others are decoded."""

_Name: TypeAlias = tuple[int, bytes]
_Message: TypeAlias = dict[str, Any]


class _HasMessages(Protocol):
    messages: list[_Message]


Chat = TypeVar("Chat", bound=_HasMessages)


class _Seen(NamedTuple):
    """A body up to the end of its last message, in pieces, and its messages, which nobody changes."""

    pieces: tuple[bytes, ...]
    size: int
    start: int
    """Where the messages begin."""
    messages: list[_Message]
    cost: int
    """In bytes of memory."""


class ChatBodies(Generic[Chat]):
    """Decodes bodies of chats. What begins as one before it did is compared, which takes a tenth of decoding it."""

    def __init__(self, decode: Callable[[bytes], Chat], capacity: int) -> None:
        """`decode` raises for all that is not a chat; `capacity` in bytes, 0 keeps nothing."""
        self._decode = decode
        self._seen: ByteLru[_Name, _Seen] = ByteLru(capacity, lambda _, seen: seen.cost)

    @property
    def capacity(self) -> int:
        """In bytes."""
        return self._seen.capacity

    @property
    def size_bytes(self) -> int:
        """In bytes."""
        return self._seen.size_bytes

    def decode(self, body: bytes) -> Chat:
        """Gives the chat, whose messages must not be changed; raises what `decode` does."""
        if len(body) < _STEP or not self.capacity:
            return self._decode(body)
        if (found := self._find(body)) is not None and (chat := self._continued(body, *found)) is not None:
            return chat
        chat = self._decode(body)
        if (start := messages_start(body)) >= 0:
            end, count = messages_end(body, start)
            if count == len(chat.messages) and _has_no_other_messages(body, end):
                self._keep(body, _Seen((body[:end],), end, start, chat.messages, end + _cost(chat.messages)))
        return chat

    def _find(self, body: bytes) -> tuple[_Name, _Seen] | None:
        """Gives what was seen and is the start of this body."""
        for end in range(len(body) // _STEP * _STEP, 0, -_STEP):
            name = (end, body[end - _NAME_BYTES : end])
            if (seen := self._seen.get(name)) is not None and _starts_with(body, seen.pieces):
                return name, seen
        return None

    def _continued(self, body: bytes, name: _Name, seen: _Seen) -> Chat | None:
        """Decodes what follows what was seen. None when that cannot be told apart from it."""
        try:
            chat = self._decode(b"%b{}%b" % (body[: seen.start], body[seen.size :]))
        except Exception:  # what is wrong is told of the whole body
            return None
        end, count = messages_end(body, seen.size)
        if chat.messages[:1] != _STAND_IN or len(chat.messages) != count + 1 or not _has_no_other_messages(body, end):
            return None
        new = chat.messages[1:]
        chat.messages = [*seen.messages, *new]
        if new:
            self._seen.discard(name)
            pieces, cost = (*seen.pieces, body[seen.size : end]), seen.cost + end - seen.size + _cost(new)
            self._keep(body, _Seen(pieces, end, seen.start, chat.messages, cost))
        else:
            self._seen.touch(name)
        return chat

    def _keep(self, body: bytes, seen: _Seen) -> None:
        if place := seen.size // _STEP * _STEP:
            self._seen.put((place, body[place - _NAME_BYTES : place]), seen)


def _starts_with(body: bytes, pieces: Sequence[bytes]) -> bool:
    at = 0
    for piece in pieces:
        if not body.startswith(piece, at):
            return False
        at += len(piece)
    return True


def _has_no_other_messages(body: bytes, end: int) -> bool:
    """Whether none of the fields that follow the messages may be named as they are, by whatever spelling."""
    return body.find(b'messages"', end) < 0 and body.find(b"\\u00", end) < 0


def _cost(messages: Sequence[_Message]) -> int:
    """The memory that messages take, in bytes."""
    values = [value for message in messages for value in message.values()]
    return _MESSAGE_BYTES * len(messages) + sum(
        getsizeof(value) if type(value) is str else _cost_of_json(value) for value in values
    )


def _cost_of_json(value: Any) -> int:
    if type(value) is dict:
        return getsizeof(value) + sum(map(_cost_of_json, value.values())) + _KEY_BYTES * len(value)
    if type(value) is list:
        return getsizeof(value) + sum(map(_cost_of_json, value))
    return getsizeof(value)
