from libc.stdint cimport int64_t, uint64_t


cdef struct Shard:
    int64_t *keys      # in insertion order; 0 marks a deleted entry
    void *values       # of `width` bytes each
    void *slots        # open-addressed numbers of entries, of two bytes each, or of four if `wide`
    uint64_t places    # number of slots
    Py_ssize_t capacity
    Py_ssize_t used    # entries, deleted ones included
    Py_ssize_t live
    Py_ssize_t head    # all entries before this one are deleted
    Py_ssize_t next    # where a sequential lookup goes on
    Py_ssize_t planned # entries to allocate when it grows for the first time
    int depth          # bits of the hash that all its keys share
    int width
    bint wide


cdef class Table:
    cdef Shard **shards_at
    cdef int depth
    cdef int width
    cdef Py_ssize_t live
    cdef Py_ssize_t drained

    cdef bint find_value(self, int64_t key, int64_t *value) noexcept
    cdef void forget_one(self, int64_t key) noexcept
    cdef int add(self, Shard *shard, int64_t key, int64_t value, uint64_t h) except -1
    cdef int split(self, Shard *shard, uint64_t h) except -1
    cdef void free_shards(self) noexcept
    cdef Shard *first_of(self, Py_ssize_t place) noexcept


cdef class GroupMasks:
    cdef Table table
    cdef list masks
    cdef dict numbers
    cdef list free
    cdef list unused
    cdef int64_t *uses
    cdef Py_ssize_t uses_size

    cdef list add_blocks(
        self, object bit, Table hash_table, const int64_t *hashes, const int64_t *keys, Py_ssize_t size
    )
    cdef int64_t number(self, object mask) except -1
    cdef int release(self, int64_t number) except -1
    cdef int sweep(self) except -1
    cdef bint discard_one(self, object bit, int64_t key) except -1
    cdef int64_t put(self, object bit, int64_t key, int64_t *before, int64_t *after) except -1
