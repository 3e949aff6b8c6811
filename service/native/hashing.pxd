from libc.stdint cimport int64_t


cdef void chain_keys(
    int64_t parent, const char *tokens, Py_ssize_t block_bytes, Py_ssize_t blocks, int64_t *keys
) noexcept nogil
