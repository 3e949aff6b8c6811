from cpython.array cimport array
from libc.stdint cimport int64_t, uint32_t


cdef struct Cursor:
    const unsigned char *at
    const unsigned char *end
    bint unsupported    # once it meets a form that is not read, or the end of the bytes


cdef Py_ssize_t array_size(Cursor *cursor) noexcept
cdef int64_t number(Cursor *cursor) noexcept
cdef array new_ids(Py_ssize_t size)
cdef void numbers_into(Cursor *cursor, Py_ssize_t size, int64_t *numbers) noexcept
cdef void ids_into(Cursor *cursor, Py_ssize_t size, uint32_t *ids) noexcept
