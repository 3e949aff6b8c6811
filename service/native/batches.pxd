from libc.stdint cimport int64_t, uint32_t

from service.native.msgpack_ints cimport Cursor


cdef struct Text:
    const char *at     # in the payload; NULL for none
    int size


cdef struct Event:
    bint is_store      # BlockStored, or else BlockRemoved
    Py_ssize_t hashes  # where in the scratch they begin
    Py_ssize_t blocks  # number of hashes; -1 for none
    Py_ssize_t ids     # where in the scratch they begin
    Py_ssize_t tokens
    int64_t size       # tokens of a block
    int64_t parent
    bint has_parent
    bint is_first_of_group
    int64_t lora_id    # as the following numbers -1 for none
    int64_t group
    int64_t window
    Text kind
    Text lora_name


cdef class Scratch:
    cdef int64_t *hashes
    cdef int64_t *keys
    cdef uint32_t *ids
    cdef Event *events
    cdef Py_ssize_t blocks     # in use
    cdef Py_ssize_t tokens
    cdef Py_ssize_t blocks_size
    cdef Py_ssize_t ids_size
    cdef Py_ssize_t events_size

    cdef void empty(self) noexcept
    cdef int reserve_blocks(self, Py_ssize_t size) except -1
    cdef int reserve_ids(self, Py_ssize_t size) except -1
    cdef int reserve_events(self, Py_ssize_t size) except -1
    cdef void trim(self) noexcept


cdef Py_ssize_t batch_start(bytes packed, Cursor *cursor, double *timestamp) noexcept
cdef int64_t batch_end(bytes packed, Cursor *cursor) noexcept
cdef int read_event(Cursor *cursor, Event *event, Scratch scratch) except -1
