"""Block keys, compiled by mypyc; service/native/fallback.py computes the same with xxhash."""

from __future__ import annotations

from librt.strings import read_i32_le, read_i64_le
from librt.vecs import append, vec
from mypy_extensions import i64


def block_keys(parent: i64, tokens: bytes, block_bytes: i64) -> vec[i64]:
    """XXH64 of each whole block, seeded with the key before it, cut to 60 bits.

    Source: XXH64 in xxHash's doc/xxhash_spec.md. 64-bit arithmetic wraps around. mypyc boxes constants above 62 bits
    at each use, so they are bound to locals first.
    """
    prime1: i64 = -7046029288634856825
    prime2: i64 = -4417276706812531889
    prime3: i64 = 1609587929392839161
    prime4: i64 = -8796714831421723037
    prime5: i64 = 2870177450012600261
    blocks: i64 = len(tokens) // block_bytes
    keys = vec[i64](capacity=blocks)
    key = parent
    at: i64 = 0
    h: i64
    k: i64
    while blocks > 0:
        blocks -= 1
        end: i64 = at + block_bytes
        if block_bytes >= 32:
            lane1: i64 = key + prime1 + prime2
            lane2: i64 = key + prime2
            lane3: i64 = key
            lane4: i64 = key - prime1
            while at + 32 <= end:
                lane1 += read_i64_le(tokens, at) * prime2
                lane1 = ((lane1 << 31) | ((lane1 >> 33) & 0x7FFFFFFF)) * prime1
                lane2 += read_i64_le(tokens, at + 8) * prime2
                lane2 = ((lane2 << 31) | ((lane2 >> 33) & 0x7FFFFFFF)) * prime1
                lane3 += read_i64_le(tokens, at + 16) * prime2
                lane3 = ((lane3 << 31) | ((lane3 >> 33) & 0x7FFFFFFF)) * prime1
                lane4 += read_i64_le(tokens, at + 24) * prime2
                lane4 = ((lane4 << 31) | ((lane4 >> 33) & 0x7FFFFFFF)) * prime1
                at += 32
            h = ((lane1 << 1) | ((lane1 >> 63) & 1)) + ((lane2 << 7) | ((lane2 >> 57) & 0x7F))
            h += ((lane3 << 12) | ((lane3 >> 52) & 0xFFF)) + ((lane4 << 18) | ((lane4 >> 46) & 0x3FFFF))
            k = lane1 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
            k = lane2 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
            k = lane3 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
            k = lane4 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
        else:
            h = key + prime5
        h += block_bytes
        while at + 8 <= end:
            k = read_i64_le(tokens, at) * prime2
            h ^= ((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1
            h = ((h << 27) | ((h >> 37) & 0x7FFFFFF)) * prime1 + prime4
            at += 8
        if at + 4 <= end:
            h ^= (i64(read_i32_le(tokens, at)) & 0xFFFFFFFF) * prime1
            h = ((h << 23) | ((h >> 41) & 0x7FFFFF)) * prime2 + prime3
            at += 4
        h ^= (h >> 33) & 0x7FFFFFFF
        h *= prime2
        h ^= (h >> 29) & 0x7FFFFFFFF
        h *= prime3
        h ^= (h >> 32) & 0xFFFFFFFF
        key = h & 0xFFFFFFFFFFFFFFF
        keys = append(keys, key)
    return keys
