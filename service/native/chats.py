"""Chats in JSON, and chats as most are, in the Python that mypyc makes fast C of."""

from __future__ import annotations

from librt.strings import read_i64_le
from mypy_extensions import i64


def is_plain(messages: list[dict[str, object]], billing_header: str) -> bool:
    """Whether each message is a role and then a text, and the role is one that can say nothing else.

    A system message that starts with `billing_header` is not plain.
    """
    for message in messages:
        if len(message) != 2:
            return False
        for field in message:
            if field != "role":
                return False
            break
        role = message["role"]
        content = message.get("content")
        if not isinstance(content, str) or not isinstance(role, str):
            return False
        if role == "user" or role == "assistant":
            continue
        if role != "system" or content.startswith(billing_header):
            return False
    return True


def messages_start(body: bytes) -> int:
    """Where the messages of a valid JSON object begin; -1 if there are none, or they are spelled otherwise."""
    try:
        at = _skip_space(body, 0)
        if body[at] != 0x7B:  # {
            return -1
        at = _skip_space(body, at + 1)
        while body[at] == 0x22:  # "
            key = at
            at = _string_end(body, at)
            here = at - key == 10 and body[key:at] == b'"messages"'
            at = _skip_space(body, _skip_space(body, at) + 1)
            if here:
                return at + 1 if body[at] == 0x5B else -1  # [
            at = _skip_space(body, _value_end(body, at))
            if body[at] == 0x2C:  # ,
                at = _skip_space(body, at + 1)
    except IndexError:
        pass
    return -1


def messages_end(body: bytes, at: i64) -> tuple[int, int]:
    """Where the last of the messages ends, and how many there are from `at` on: where they start, or one has ended.

    The body must be valid JSON.
    """
    end = at
    count: i64 = 0
    try:
        at = _skip_space(body, at)
        if body[at] == 0x2C:
            at = _skip_space(body, at + 1)
        while body[at] == 0x7B:
            end = at = _value_end(body, at)
            count += 1
            at = _skip_space(body, at)
            if body[at] == 0x2C:
                at = _skip_space(body, at + 1)
    except IndexError:
        pass
    return end, count


def _skip_space(body: bytes, at: i64) -> i64:
    while body[at] <= 0x20:
        at += 1
    return at


def _string_end(body: bytes, at: i64) -> i64:
    """Where the string ends that starts at `at`. Raises IndexError where it does not."""
    ones: i64 = 0x0101010101010101
    quotes: i64 = 0x2222222222222222
    backslashes: i64 = 0x5C5C5C5C5C5C5C5C
    high_bits: i64 = -9187201950435737472
    size: i64 = len(body)
    at += 1
    while True:
        # Eight bytes at once. In `found`, the lowest bit that is set belongs to the first byte that is either.
        found: i64 = 0
        while at + 8 <= size:
            word = read_i64_le(body, at)
            quote = word ^ quotes
            backslash = word ^ backslashes
            found = (((quote - ones) & ~quote) | ((backslash - ones) & ~backslash)) & high_bits
            if found != 0:
                break
            at += 8
        if found != 0:
            found &= -found
            if found & 0x80808080 == 0:
                found >>= 32
                at += 4
            if found & 0x8080 == 0:
                found >>= 16
                at += 2
            if found & 0x80 == 0:
                at += 1
        character: i64 = body[at]
        if character == 0x22:
            return at + 1
        at += 2 if character == 0x5C else 1


def _value_end(body: bytes, at: i64) -> i64:
    """Where the value ends that starts at `at`. Raises IndexError where it does not."""
    depth: i64 = 0
    while True:
        character: i64 = body[at]
        if character == 0x22:
            at = _string_end(body, at)
        elif character == 0x7B or character == 0x5B:
            depth += 1
            at += 1
            continue
        elif character == 0x7D or character == 0x5D:
            if not depth:
                return at  # of a number or a name, which what encloses it ends
            depth -= 1
            at += 1
        elif character == 0x2C:
            if not depth:
                return at
            at += 1
            continue
        else:
            at += 1
            continue
        if not depth:
            return at
