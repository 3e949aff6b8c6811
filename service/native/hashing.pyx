"""Block keys; service/native/fallback.py computes the same with xxhash."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from service.native.vectors cimport KeyVector, new_vector

cdef uint64_t _PRIME1 = 0x9E3779B185EBCA87ULL
cdef uint64_t _PRIME2 = 0xC2B2AE3D27D4EB4FULL
cdef uint64_t _PRIME3 = 0x165667B19E3779F9ULL
cdef uint64_t _PRIME4 = 0x85EBCA77C2B2AE63ULL
cdef uint64_t _PRIME5 = 0x27D4EB2F165667C5ULL
cdef uint64_t _KEY_BITS = 0xFFFFFFFFFFFFFFFULL


def block_keys(int64_t parent, bytes tokens not None, Py_ssize_t block_bytes):
    """XXH64 of each whole block, seeded with the key before it, cut to 60 bits."""
    if block_bytes <= 0 or block_bytes % 4:
        raise ValueError(f"a block of {block_bytes} bytes, which are no 32-bit tokens")
    cdef KeyVector keys = new_vector(PyBytes_GET_SIZE(tokens) // block_bytes)
    chain_keys(parent, PyBytes_AS_STRING(tokens), block_bytes, keys.size, keys.at)
    return keys


cdef void chain_keys(
    int64_t parent, const char *tokens, Py_ssize_t block_bytes, Py_ssize_t blocks, int64_t *keys
) noexcept nogil:
    """Computes the keys of `blocks` blocks; the first is chained to `parent`."""
    cdef uint64_t key = <uint64_t> parent
    cdef Py_ssize_t block
    for block in range(blocks):
        key = xxh64(tokens, block_bytes, key) & _KEY_BITS
        keys[block] = <int64_t> key
        tokens += block_bytes


cdef inline uint64_t rotated(uint64_t number, int bits) noexcept nogil:
    return (number << bits) | (number >> (64 - bits))


cdef inline uint64_t word(const char *at) noexcept nogil:
    cdef uint64_t number
    memcpy(&number, at, 8)
    return number


cdef inline uint64_t mixed(uint64_t lane, uint64_t number) noexcept nogil:
    return rotated(lane + number * _PRIME2, 31) * _PRIME1


cdef inline uint64_t merged(uint64_t h, uint64_t lane) noexcept nogil:
    return (h ^ mixed(0, lane)) * _PRIME1 + _PRIME4


cdef inline uint64_t xxh64(const char *at, Py_ssize_t size, uint64_t seed) noexcept nogil:
    """Source: XXH64 in xxHash's doc/xxhash_spec.md, for sizes that are multiples of 4."""
    cdef const char *end = at + size
    cdef uint64_t lane1, lane2, lane3, lane4, h
    cdef uint32_t last
    if size >= 32:
        lane1 = seed + _PRIME1 + _PRIME2
        lane2 = seed + _PRIME2
        lane3 = seed
        lane4 = seed - _PRIME1
        while at + 32 <= end:
            lane1 = mixed(lane1, word(at))
            lane2 = mixed(lane2, word(at + 8))
            lane3 = mixed(lane3, word(at + 16))
            lane4 = mixed(lane4, word(at + 24))
            at += 32
        h = rotated(lane1, 1) + rotated(lane2, 7) + rotated(lane3, 12) + rotated(lane4, 18)
        h = merged(merged(merged(merged(h, lane1), lane2), lane3), lane4)
    else:
        h = seed + _PRIME5
    h += <uint64_t> size
    while at + 8 <= end:
        h = rotated(h ^ mixed(0, word(at)), 27) * _PRIME1 + _PRIME4
        at += 8
    if at + 4 <= end:
        memcpy(&last, at, 4)
        h = rotated(h ^ last * _PRIME1, 23) * _PRIME2 + _PRIME3
    h = (h ^ (h >> 33)) * _PRIME2
    h = (h ^ (h >> 29)) * _PRIME3
    return h ^ (h >> 32)
