"""Finds token ids and messages in a request body without decoding it.

Assumes valid JSON and does not check it: a JSON decoder validates the rest of the body afterwards.
"""

from cpython.array cimport array, clone, resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

import array as _array

cdef extern from *:
    """
    #define lowest_bit __builtin_ctzll
    """
    int lowest_bit(unsigned long long number) noexcept nogil

cdef array _IDS = _array.array("I")
cdef uint64_t _HIGH_BITS = 0x8080808080808080ULL


def prompt_ids(bytes body not None):
    """The token ids under "prompt" of a JSON object, and the start and end of their array.

    They are an array of unsigned 32-bit integers, or a list of such arrays for several prompts. None for anything that
    this does not read: keys with escapes, numbers in another notation, two prompts.
    """
    cdef const unsigned char *text = <const unsigned char *> PyBytes_AS_STRING(body)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body), at
    cdef Py_ssize_t start = array_under(b'"prompt"', 8, text, size)
    if start < 0:
        return None
    at = skip_space(text, size, start + 1)
    if at < size and text[at] == 91:
        found = []
        while True:
            at = skip_space(text, size, at)
            if at >= size or text[at] != 91:
                return None
            ids = ids_at(text, size, &at)
            if ids is None:
                return None
            found.append(ids)
            at = skip_space(text, size, at)
            if at >= size:
                return None
            at += 1
            if text[at - 1] == 93:
                break
            if text[at - 1] != 44:
                return None
    else:
        at = start
        found = ids_at(text, size, &at)
        if found is None:
            return None
    if body.find(b'"prompt"', at) >= 0 or body.find(b"\\", at) >= 0:
        return None
    return found, start, at


cdef array ids_at(const unsigned char *text, Py_ssize_t size, Py_ssize_t *place):
    """The numbers of the array that begins at `place`, which is moved to its end; None for one without or with others."""
    cdef Py_ssize_t count = 0, at = place[0] + 1, first, digits
    cdef uint64_t word, ends, number
    cdef const void *bracket = memchr(text + at, 93, size - at)
    cdef array ids
    if bracket is NULL:
        return None
    # At least two characters each.
    ids = clone(_IDS, (<const unsigned char *> bracket - text - at) // 2 + 1, zero=False)
    while True:
        ends = 0
        if at < size and text[at] == 32:
            at += 1
        if at < size and text[at] <= 32:
            at = skip_space(text, size, at)
        if at + 8 <= size:
            # Eight characters at once. A byte that is not a digit is above 9 after the XOR with "0": the lowest bit
            # set in `ends` marks the first such byte.
            memcpy(&word, text + at, 8)
            word ^= 0x3030303030303030ULL
            ends = ((word + 0x7676767676767676ULL) | word) & _HIGH_BITS
        if ends & ~<uint64_t> 0xFF:
            digits = lowest_bit(ends) >> 3
            if digits == 0 or (digits > 1 and word & 0xFF == 0):
                return None
            word <<= 64 - 8 * digits
            word = word * 10 + (word >> 8)
            word = (word & 0xFF000000FFULL) * 0xF424000000064ULL + ((word >> 16) & 0xFF000000FFULL) * 0x271000000001ULL
            number = word >> 32
            at += digits
        else:
            first = at
            number = 0
            while at < size and 48 <= text[at] <= 57 and at - first < 11:
                number = number * 10 + text[at] - 48
                at += 1
            if at == first or number > 0xFFFFFFFFU or (at - first > 1 and text[first] == 48):
                return None
        if at < size and text[at] <= 32:
            at = skip_space(text, size, at)
        if at >= size:
            return None
        ids.data.as_uints[count] = <uint32_t> number
        count += 1
        at += 1
        if text[at - 1] == 93:
            break
        if text[at - 1] != 44:
            return None
    resize(ids, count)
    place[0] = at
    return ids


def messages_start(bytes body not None):
    """The offset after the bracket of "messages" in a JSON object; -1 if it is not found without decoding."""
    cdef const unsigned char *text = <const unsigned char *> PyBytes_AS_STRING(body)
    cdef Py_ssize_t bracket = array_under(b'"messages"', 10, text, PyBytes_GET_SIZE(body))
    return -1 if bracket < 0 else bracket + 1


def messages_end(bytes body not None, Py_ssize_t at):
    """The end of the last message and the number of messages from `at` on, which must be a message boundary."""
    cdef const unsigned char *text = <const unsigned char *> PyBytes_AS_STRING(body)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body), end = at, count = 0
    if at < 0:
        raise ValueError(f"offset {at} of a body")
    while True:
        at = skip_space(text, size, at)
        if at < size and text[at] == 44:
            at = skip_space(text, size, at + 1)
        if at >= size or text[at] != 123:
            break
        at = end_of_value(text, size, at)
        if at < 0:
            break
        end = at
        count += 1
    return end, count


cdef Py_ssize_t array_under(const char *key, Py_ssize_t length, const unsigned char *text, Py_ssize_t size) noexcept:
    """The offset of the array under a quoted key of a JSON object; -1 if it is not found without decoding."""
    cdef Py_ssize_t at = skip_space(text, size, 0), end
    cdef bint found
    if at >= size or text[at] != 123:
        return -1
    while True:
        at = skip_space(text, size, at + 1)
        end = end_of_text(text, size, at)
        if end < 0 or memchr(text + at, 92, end - at) is not NULL:
            return -1
        found = end - at == length and memcmp(text + at, key, length) == 0
        at = skip_space(text, size, end)
        if at >= size or text[at] != 58:
            return -1
        at = skip_space(text, size, at + 1)
        if found:
            return at if at < size and text[at] == 91 else -1
        at = end_of_value(text, size, at)
        if at < 0:
            return -1
        at = skip_space(text, size, at)
        if at >= size or text[at] != 44:
            return -1


cdef Py_ssize_t end_of_value(const unsigned char *text, Py_ssize_t size, Py_ssize_t at) noexcept:
    """The end of the JSON value that begins at `at`: also a comma or a closing bracket around it. -1 without an end."""
    cdef Py_ssize_t depth = 0
    cdef unsigned char mark
    while at < size:
        mark = text[at]
        if mark == 34:
            at = end_of_text(text, size, at)
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


cdef Py_ssize_t end_of_text(const unsigned char *text, Py_ssize_t size, Py_ssize_t at) noexcept:
    """The end of the JSON string that begins at `at`; -1 if none begins there or it does not end."""
    cdef const unsigned char *quote
    cdef Py_ssize_t backslash
    if at >= size or text[at] != 34:
        return -1
    while True:
        at += 1
        quote = <const unsigned char *> memchr(text + at, 34, size - at)
        if quote is NULL:
            return -1
        at = backslash = quote - text
        while text[backslash - 1] == 92:  # ends at the quote before, if not earlier
            backslash -= 1
        if (at - backslash) % 2 == 0:
            return at + 1


cdef Py_ssize_t skip_space(const unsigned char *text, Py_ssize_t size, Py_ssize_t at) noexcept:
    while at < size and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at
