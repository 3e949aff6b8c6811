"""Arrays of integers in msgpack, compiled by mypyc."""

from __future__ import annotations

from librt.strings import read_i16_be, read_i32_be, read_i64_be
from librt.vecs import append, vec
from mypy_extensions import i32, i64


def unpack_hashes(packed: bytes) -> vec[i64] | None:
    """The integers of a msgpack array as signed 64-bit ones; None if it holds anything else."""
    size: i64 = len(packed)
    count, at = _array_header(packed)
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
    """The integers of a msgpack array as unsigned 32-bit ones; None if it holds anything else."""
    size: i64 = len(packed)
    count, at = _array_header(packed)
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


def _array_header(packed: bytes) -> tuple[i64, i64]:
    """The number of elements of a msgpack array (-1 for anything else) and the offset of the first."""
    kind: i64 = packed[0]
    if kind & 0xF0 == 0x90:
        return kind & 0xF, 1
    if kind == 0xDC:
        return i64(read_i16_be(packed, 1)) & 0xFFFF, 3
    if kind == 0xDD:
        return i64(read_i32_be(packed, 1)) & 0xFFFFFFFF, 5
    return -1, 0
