"""Finds token ids and messages in a request body without decoding it, compiled by mypyc.

Assumes valid JSON and does not check it: a JSON decoder validates the rest of the body afterwards.
"""

from __future__ import annotations

from librt.strings import read_i64_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64


def prompt_ids(body: bytes) -> tuple[vec[i32], int, int] | None:
    """The token ids under "prompt" of a JSON object as unsigned 32-bit integers, and the start and end of their array.

    None for anything that this does not read: keys with escapes, numbers in another notation, two prompts.
    """
    start = _array_under(b'"prompt"', body)
    if start < 0:
        return None
    high_bits: i64 = -9187201950435737472
    to_high_bit: i64 = 0x7676767676767676
    zeros: i64 = 0x3030303030303030
    size: i64 = len(body)
    ids = vec[i32](capacity=(size - start) // 4)
    at: i64 = start + 1
    while True:
        number: i64
        ends: i64 = 0
        if at < size and body[at] == 32:
            at += 1
        if at < size and body[at] <= 32:
            at = _skip_space(body, at)
        if at + 8 <= size:
            # Eight characters at once. A byte that is not a digit is above 9 after the XOR with "0": the lowest bit
            # set in `ends` marks the first such byte.
            word = read_i64_le(body, at) ^ zeros
            ends = ((word + to_high_bit) | word) & high_bits
            ends &= -ends
        if ends > 0x80:
            digits: i64 = 5
            while digits < 7 and ends >> (8 * digits + 7) != 1 and ends >> (8 * digits + 7) != 0:
                digits += 1
            while ends >> (8 * digits + 7) == 0:
                digits -= 1
            if digits > 1 and word & 0xFF == 0:
                return None
            word = (word & ((ends >> 7) - 1)) << (64 - 8 * digits)
            word = word * 10 + ((word >> 8) & 0xFFFFFFFFFFFFFF)
            word = (word & 0xFF000000FF) * 0xF424000000064 + ((word >> 16) & 0xFF000000FF) * 0x271000000001
            number = (word >> 32) & 0xFFFFFFFF
            at += digits
        else:
            first = at
            number = 0
            while at < size and 48 <= body[at] <= 57 and at - first < 11:
                number = number * 10 + i64(body[at]) - 48
                at += 1
            if at == first or number > 0xFFFFFFFF or (at - first > 1 and body[first] == 48):
                return None
        ids = append(ids, i32(number))
        if at < size and body[at] <= 32:
            at = _skip_space(body, at)
        if at >= size:
            return None
        mark: i64 = body[at]
        at += 1
        if mark == 93:
            break
        if mark != 44:
            return None
    if body.find(b'"prompt"', at) >= 0 or body.find(b"\\", at) >= 0:
        return None
    return ids, start, at


def messages_start(body: bytes) -> int:
    """The offset after the bracket of "messages" in a JSON object; -1 if it is not found without decoding."""
    bracket = _array_under(b'"messages"', body)
    return -1 if bracket < 0 else bracket + 1


def messages_end(body: bytes, at: i64) -> tuple[int, int]:
    """The end of the last message and the number of messages from `at` on, which must be a message boundary."""
    size: i64 = len(body)
    end = at
    count: i64 = 0
    while True:
        at = _skip_space(body, at)
        if at < size and body[at] == 44:
            at = _skip_space(body, at + 1)
        if at >= size or body[at] != 123:
            break
        at = _end_of_value(body, at)
        if at < 0:
            break
        end = at
        count += 1
    return end, count


def _array_under(key: bytes, body: bytes) -> i64:
    """The offset of the array under a quoted key of a JSON object; -1 if it is not found without decoding."""
    size: i64 = len(body)
    at = _skip_space(body, 0)
    if at >= size or body[at] != 123:
        return -1
    while True:
        at = _skip_space(body, at + 1)
        end = _end_of_text(body, at)
        if end < 0 or body.find(b"\\", at, end) >= 0:
            return -1
        found = end - at == len(key) and body[at:end] == key
        at = _skip_space(body, end)
        if at >= size or body[at] != 58:
            return -1
        at = _skip_space(body, at + 1)
        if found:
            return at if at < size and body[at] == 91 else -1
        at = _end_of_value(body, at)
        if at < 0:
            return -1
        at = _skip_space(body, at)
        if at >= size or body[at] != 44:
            return -1


def _end_of_value(body: bytes, at: i64) -> i64:
    """The end of the JSON value that begins at `at`: also a comma or a closing bracket around it. -1 without an end."""
    size: i64 = len(body)
    depth: i64 = 0
    while at < size:
        mark: i64 = body[at]
        if mark == 34:
            at = _end_of_text(body, at)
            if at < 0:
                return -1
        elif mark == 125 or mark == 93:
            if depth == 0:
                return at
            depth -= 1
            at += 1
        elif mark == 44 and depth == 0:
            return at
        else:
            if mark == 123 or mark == 91:
                depth += 1
            at += 1
            continue
        if depth == 0:
            return at
    return -1


def _end_of_text(body: bytes, at: i64) -> i64:
    """The end of the JSON string that begins at `at`; -1 if none begins there or it does not end."""
    ones: i64 = 0x0101010101010101
    quotes: i64 = 0x2222222222222222
    backslashes: i64 = 0x5C5C5C5C5C5C5C5C
    high_bits: i64 = -9187201950435737472
    size: i64 = len(body)
    if at >= size or body[at] != 34:
        return -1
    at += 1
    while at < size:
        # Eight bytes at once. The lowest bit set in `found` marks the first quote or backslash.
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
        elif at >= size:
            break
        mark: i64 = body[at]
        if mark == 34:
            return at + 1
        at += 2 if mark == 92 else 1
    return -1


def _skip_space(body: bytes, at: i64) -> i64:
    size: i64 = len(body)
    while at < size and (body[at] == 32 or body[at] == 10 or body[at] == 13 or body[at] == 9):
        at += 1
    return at
