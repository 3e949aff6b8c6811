"""Splits texts at the safe places that service/prompts/tokens/word_breaks.py defines."""

from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND, PyUnicode_READ, PyUnicode_Substring


def split_words(str text not None, bint at_lines, bint in_runs):
    """Splits a text into words; joined, they are the text."""
    cdef list found = []
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), start = 0, at = 0
    cdef int kind = PyUnicode_KIND(text)
    cdef void *data = PyUnicode_DATA(text)
    cdef Py_UCS4 before = 0, character, after
    while at + 1 < size:
        character = PyUnicode_READ(kind, data, at)
        if character == 32:
            if at > start:
                after = PyUnicode_READ(kind, data, at + 1)
                if is_in_word(after) and (
                    is_in_word(before)
                    or (in_runs and (before == 32 or before == 10) and not 0x30 <= after <= 0x39)
                ):
                    found.append(PyUnicode_Substring(text, start, at))
                    start = at
        elif character == 10 and at_lines and at > 0 and ends_line(before):
            if starts_line(PyUnicode_READ(kind, data, at + 1)):
                found.append(PyUnicode_Substring(text, start, at + 1))
                start = at + 1
        before = character
        at += 1
    found.append(PyUnicode_Substring(text, start, size))
    return found


cdef inline bint is_in_word(Py_UCS4 character) noexcept:
    """Whether it is in `!-~`, А-я or 가-힣."""
    if character < 0x7F:
        return character > 0x20
    return 0x410 <= character <= 0x44F or 0xAC00 <= character <= 0xD7A3


cdef inline bint is_letter(Py_UCS4 character) noexcept:
    """Whether it is in A-Z, a-z, А-я or 가-힣."""
    if character < 0x7F:
        return 0x61 <= character <= 0x7A or 0x41 <= character <= 0x5A
    return 0x410 <= character <= 0x44F or 0xAC00 <= character <= 0xD7A3


cdef inline bint starts_line(Py_UCS4 character) noexcept:
    """Whether it is a letter or in 一-龥."""
    return is_letter(character) or 0x4E00 <= character <= 0x9FA5


cdef inline bint ends_line(Py_UCS4 character) noexcept:
    """Whether it is in a word or in 一-龥, or one of ，。！？：；）."""
    return is_in_word(character) or 0x4E00 <= character <= 0x9FA5 or character in (
        0x3002, 0xFF0C, 0xFF01, 0xFF1F, 0xFF1A, 0xFF1B, 0xFF09
    )
