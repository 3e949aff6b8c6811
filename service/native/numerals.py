"""Numbers out of msgpack and JSON, many at a time, in the Python that mypyc makes fast C of."""

from __future__ import annotations

from librt.strings import read_i16_be, read_i32_be, read_i64_be, read_i64_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64


def unpack_hashes(packed: bytes) -> vec[i64] | None:
    """The numbers of a msgpack array, as 64 bits with a sign; None when it holds anything else."""
    size: i64 = len(packed)
    count, at = _head(packed)
    if count < 0:
        return None
    numbers = vec[i64](capacity=count)
    while count > 0:
        count -= 1
        if at >= size:
            return None
        kind: i64 = packed[at]
        at += 1
        if kind < 0x80:
            numbers = append(numbers, kind)
        elif kind == 0xCD:
            numbers = append(numbers, i64(read_i16_be(packed, at)) & 0xFFFF)
            at += 2
        elif kind == 0xCE:
            numbers = append(numbers, i64(read_i32_be(packed, at)) & 0xFFFFFFFF)
            at += 4
        elif kind == 0xCF or kind == 0xD3:
            numbers = append(numbers, read_i64_be(packed, at))
            at += 8
        elif kind == 0xCC:
            numbers = append(numbers, i64(packed[at]))
            at += 1
        elif kind >= 0xE0:
            numbers = append(numbers, kind - 0x100)
        elif kind == 0xD0:
            number: i64 = packed[at]
            numbers = append(numbers, number - 0x100 if number >= 0x80 else number)
            at += 1
        elif kind == 0xD1:
            numbers = append(numbers, i64(read_i16_be(packed, at)))
            at += 2
        elif kind == 0xD2:
            numbers = append(numbers, i64(read_i32_be(packed, at)))
            at += 4
        else:
            return None
    return numbers


def unpack_tokens(packed: bytes) -> vec[i32] | None:
    """The numbers of a msgpack array as unsigned 32-bit integers; None when it holds anything else."""
    size: i64 = len(packed)
    count, at = _head(packed)
    if count < 0:
        return None
    tokens = vec[i32](capacity=count)
    while count > 0:
        count -= 1
        if at >= size:
            return None
        kind: i64 = packed[at]
        at += 1
        if kind == 0xCD:
            tokens = append(tokens, i32(read_i16_be(packed, at)) & 0xFFFF)
            at += 2
        elif kind < 0x80:
            tokens = append(tokens, i32(kind))
        elif kind == 0xCE:
            tokens = append(tokens, read_i32_be(packed, at))
            at += 4
        elif kind == 0xCC:
            tokens = append(tokens, i32(packed[at]))
            at += 1
        else:
            return None
    return tokens


def _head(packed: bytes) -> tuple[i64, i64]:
    """How many elements a msgpack array has, -1 for anything else, and where they begin."""
    kind: i64 = packed[0]
    if kind & 0xF0 == 0x90:
        return kind & 0xF, 1
    if kind == 0xDC:
        return i64(read_i16_be(packed, 1)) & 0xFFFF, 3
    if kind == 0xDD:
        return i64(read_i32_be(packed, 1)) & 0xFFFFFFFF, 5
    return -1, 0


def prompt_ids(body: bytes) -> tuple[vec[i32], int, int] | None:
    """The token ids under "prompt" of a JSON object, as unsigned 32-bit integers, and from where to where they stand.

    None when they are not plainly there: another key by another spelling, numbers of any other form, two prompts.
    """
    start = _value_of_prompt(body)
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
            # Eight characters at once. A byte that is no digit is above 9 without the bits of "0": in `ends`, the
            # lowest bit that is set belongs to the first of those.
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


def _value_of_prompt(body: bytes) -> i64:
    """Where the array under the key "prompt" of a JSON object begins; -1 when it is not plainly there."""
    size: i64 = len(body)
    at = _skip_space(body, 0)
    if at >= size or body[at] != 123:
        return -1
    while True:
        at = _skip_space(body, at + 1)
        end = _end_of_text(body, at)
        if end < 0 or body.find(b"\\", at, end) >= 0:
            return -1
        is_prompt = end - at == 8 and body[at:end] == b'"prompt"'
        at = _skip_space(body, end)
        if at >= size or body[at] != 58:
            return -1
        at = _skip_space(body, at + 1)
        if at >= size:
            return -1
        if is_prompt:
            return at if body[at] == 91 else -1
        depth: i64 = 0
        while True:
            if at >= size:
                return -1
            mark: i64 = body[at]
            if mark == 34:
                at = _end_of_text(body, at)
                if at < 0:
                    return -1
                continue
            if mark == 123 or mark == 91:
                depth += 1
            elif mark == 125 or mark == 93:
                depth -= 1
                if depth < 0:
                    return -1
            elif mark == 44 and depth == 0:
                break
            at += 1


def _end_of_text(body: bytes, at: i64) -> i64:
    """Where the JSON string that begins there ends; -1 when none does."""
    size: i64 = len(body)
    if at >= size or body[at] != 34:
        return -1
    at += 1
    while at < size:
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
