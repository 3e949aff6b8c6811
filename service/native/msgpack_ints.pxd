from libc.stdint cimport int64_t

from service.native.vectors cimport KeyVector


cdef struct Cursor:
    const unsigned char *at
    const unsigned char *end
    bint unsupported    # once it meets a form that is not read, or the end of the bytes


cdef Py_ssize_t array_size(Cursor *cursor) noexcept
cdef int64_t number(Cursor *cursor) noexcept
cdef KeyVector hashes(Cursor *cursor)
cdef object tokens(Cursor *cursor)
