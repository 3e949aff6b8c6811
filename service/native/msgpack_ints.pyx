"""Integers and arrays of integers in msgpack."""

from cpython.array cimport array, clone
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from service.native.vectors cimport KeyVector, new_vector

import array as _array

cdef extern from *:
    """
    #define swapped16 __builtin_bswap16
    #define swapped32 __builtin_bswap32
    #define swapped64 __builtin_bswap64
    """
    uint16_t swapped16(uint16_t number) noexcept nogil
    uint32_t swapped32(uint32_t number) noexcept nogil
    uint64_t swapped64(uint64_t number) noexcept nogil

cdef array _IDS = _array.array("I")


def unpack_hashes(bytes packed not None):
    """The integers of a msgpack array as signed 64-bit ones; None if it holds anything else."""
    cdef Cursor cursor = cursor_of(packed)
    found = hashes(&cursor)
    return None if cursor.unsupported else found


def unpack_tokens(bytes packed not None):
    """The integers of a msgpack array as unsigned 32-bit ones; None if it holds anything else."""
    cdef Cursor cursor = cursor_of(packed)
    found = tokens(&cursor)
    return None if cursor.unsupported else found


cdef Cursor cursor_of(bytes packed) noexcept:
    cdef Cursor cursor
    cursor.at = <const unsigned char *> PyBytes_AS_STRING(packed)
    cursor.end = cursor.at + PyBytes_GET_SIZE(packed)
    cursor.unsupported = False
    return cursor


cdef inline uint16_t read16(const unsigned char *at) noexcept nogil:
    cdef uint16_t number
    memcpy(&number, at, 2)
    return swapped16(number)


cdef inline uint32_t read32(const unsigned char *at) noexcept nogil:
    cdef uint32_t number
    memcpy(&number, at, 4)
    return swapped32(number)


cdef inline uint64_t read64(const unsigned char *at) noexcept nogil:
    cdef uint64_t number
    memcpy(&number, at, 8)
    return swapped64(number)


cdef Py_ssize_t array_size(Cursor *cursor) noexcept:
    """Reads the header of an array. Each element has a byte at least, so that its size is bounded by the bytes left."""
    cdef Py_ssize_t left = cursor.end - cursor.at, size = -1
    if left > 0:
        if cursor.at[0] & 0xF0 == 0x90:
            size = cursor.at[0] & 0xF
            cursor.at += 1
        elif cursor.at[0] == 0xDC and left >= 3:
            size = read16(cursor.at + 1)
            cursor.at += 3
        elif cursor.at[0] == 0xDD and left >= 5:
            size = read32(cursor.at + 1)
            cursor.at += 5
    if not 0 <= size <= cursor.end - cursor.at:
        cursor.unsupported = True
        return 0
    return size


cdef int64_t number(Cursor *cursor) noexcept:
    """Reads an integer as a signed 64-bit one."""
    cdef Py_ssize_t left = cursor.end - cursor.at - 1
    cdef const unsigned char *at = cursor.at + 1
    cdef unsigned char kind
    if left >= 0:
        kind = cursor.at[0]
        if kind < 0x80 or kind >= 0xE0:
            cursor.at += 1
            return <int8_t> kind
        if left >= 8 and (kind == 0xCF or kind == 0xD3):
            cursor.at += 9
            return <int64_t> read64(at)
        if left >= 2 and (kind == 0xCD or kind == 0xD1):
            cursor.at += 3
            return <int64_t> read16(at) if kind == 0xCD else <int64_t> <int16_t> read16(at)
        if left >= 4 and (kind == 0xCE or kind == 0xD2):
            cursor.at += 5
            return <int64_t> read32(at) if kind == 0xCE else <int64_t> <int32_t> read32(at)
        if left >= 1 and (kind == 0xCC or kind == 0xD0):
            cursor.at += 2
            return <int64_t> at[0] if kind == 0xCC else <int64_t> <int8_t> at[0]
    cursor.unsupported = True
    return 0


cdef KeyVector hashes(Cursor *cursor):
    """Reads an array of integers."""
    cdef KeyVector found = new_vector(array_size(cursor))
    numbers_into(cursor, found.size, found.at)
    return found


cdef array tokens(Cursor *cursor):
    """Reads an array of unsigned 32-bit integers."""
    cdef Py_ssize_t size = array_size(cursor)
    cdef array found = new_ids(size)
    ids_into(cursor, size, found.data.as_uints)
    return found


cdef array new_ids(Py_ssize_t size):
    """Token ids that are set by the caller."""
    return clone(_IDS, size, zero=False)


cdef void numbers_into(Cursor *cursor, Py_ssize_t size, int64_t *numbers) noexcept:
    """Reads the elements of an array as signed 64-bit integers."""
    cdef Py_ssize_t position
    for position in range(size):
        if cursor.unsupported:
            break
        if cursor.end - cursor.at >= 9 and cursor.at[0] == 0xCF:
            numbers[position] = <int64_t> read64(cursor.at + 1)
            cursor.at += 9
        else:
            numbers[position] = number(cursor)


cdef void ids_into(Cursor *cursor, Py_ssize_t size, uint32_t *ids) noexcept:
    """Reads the elements of an array as unsigned 32-bit integers."""
    cdef const unsigned char *at = cursor.at
    cdef const unsigned char *end = cursor.end
    cdef Py_ssize_t position
    cdef int64_t larger
    for position in range(size):
        if end - at >= 3 and at[0] == 0xCD:
            ids[position] = read16(at + 1)
            at += 3
            continue
        cursor.at = at
        larger = number(cursor)
        at = cursor.at
        if larger != <int64_t> <uint32_t> larger:
            cursor.unsupported = True
        if cursor.unsupported:
            break
        ids[position] = <uint32_t> larger
    cursor.at = at
