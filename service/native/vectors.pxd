from libc.stdint cimport int64_t


cdef class KeyVector:
    cdef int64_t *at
    cdef readonly Py_ssize_t size


cdef KeyVector new_vector(Py_ssize_t size)
cdef KeyVector as_vector(object numbers)
