"""One-pass reader of the common form of event batches.

service/events/wire.py decodes every other form, and must read these batches to the same events.
"""

cimport cython
from cpython.array cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from service.native.msgpack_ints cimport Cursor, array_size, ids_into, new_ids, number, numbers_into
from service.native.vectors cimport KeyVector, new_vector

cdef extern from *:
    """
    #define swapped64 __builtin_bswap64
    """
    uint64_t swapped64(uint64_t number) noexcept nogil

cdef enum:
    _NIL = 0xC0
    _LARGEST_BLOCK = 1 << 20  # in tokens
    _LEAST = 64      # numbers for which there is memory at least
    _KEPT = 1 << 16  # and at most after a batch


def read_common_batch(bytes packed not None, stored, removed, gpu):
    """Gives a payload's timestamp, events, rank, and whether it stores a prompt's first block in a cache group.

    The common form is `[float, [map, …], rank]`: each map begins with its tag and is BlockStored with tokens or
    BlockRemoved, on the GPU, with no extra keys but a LoRA name. None for any other form. `stored` and `removed`
    construct the events from the fields of service.index.base.
    """
    cdef Cursor cursor
    cdef Event event
    cdef double timestamp
    cdef int64_t rank
    cdef Py_ssize_t count
    cdef bint from_first_block = False
    cdef list events = []
    for count in range(batch_start(packed, &cursor, &timestamp)):
        _scratch.empty()
        read_event(&cursor, &event, _scratch)
        if cursor.unsupported:
            break
        from_first_block |= event.is_first_of_group
        events.append(stored_of(&event, stored, gpu) if event.is_store else removed_of(&event, removed, gpu))
    rank = batch_end(packed, &cursor)
    _scratch.trim()
    return None if cursor.unsupported else (timestamp, events, rank, from_first_block)


cdef Py_ssize_t batch_start(bytes packed, Cursor *cursor, double *timestamp) noexcept:
    """Reads what is before the events and gives their number."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
    cdef const unsigned char *at = <const unsigned char *> PyBytes_AS_STRING(packed)
    cdef uint64_t bits
    cursor.at, cursor.end = at, at + size
    cursor.unsupported = size < 11 or at[0] & 0xFE != 0x92 or at[1] != 0xCB
    if cursor.unsupported:
        return 0
    memcpy(&bits, at + 2, 8)
    bits = swapped64(bits)
    memcpy(timestamp, &bits, 8)
    cursor.at += 10
    return array_size(cursor)


cdef int64_t batch_end(bytes packed, Cursor *cursor) noexcept:
    """Reads what is behind the events and gives the rank."""
    cdef int64_t rank = 0
    if cursor.unsupported:
        return 0
    if PyBytes_AS_STRING(packed)[0] & 1 and not accept_nil(cursor):
        rank = number(cursor)
    if cursor.at != cursor.end or rank < 0:
        cursor.unsupported = True
    return rank


@cython.final
cdef class Scratch:
    """Memory for events and their numbers, which is used again once it was emptied."""

    def __dealloc__(self):
        PyMem_Free(self.hashes)
        PyMem_Free(self.keys)
        PyMem_Free(self.ids)
        PyMem_Free(self.events)

    cdef void empty(self) noexcept:
        self.blocks = self.tokens = 0

    cdef int reserve_blocks(self, Py_ssize_t size) except -1:
        """Makes room for as many more hashes, and for as many keys as there are hashes."""
        size += self.blocks
        if size > self.blocks_size:
            size = max(size, _LEAST, 2 * self.blocks_size)
            self.hashes = <int64_t *> larger(self.hashes, size * sizeof(int64_t))
            self.keys = <int64_t *> larger(self.keys, size * sizeof(int64_t))
            self.blocks_size = size
        return 0

    cdef int reserve_ids(self, Py_ssize_t size) except -1:
        size += self.tokens
        if size > self.ids_size:
            size = max(size, _LEAST, 2 * self.ids_size)
            self.ids = <uint32_t *> larger(self.ids, size * sizeof(uint32_t))
            self.ids_size = size
        return 0

    cdef int reserve_events(self, Py_ssize_t size) except -1:
        if size > self.events_size:
            self.events = <Event *> larger(self.events, size * sizeof(Event))
            self.events_size = size
        return 0

    cdef void trim(self) noexcept:
        """Gives back the memory of a large batch."""
        if self.blocks_size > _KEPT:
            PyMem_Free(self.hashes)
            PyMem_Free(self.keys)
            self.hashes = self.keys = NULL
            self.blocks_size = 0
        if self.ids_size > _KEPT:
            PyMem_Free(self.ids)
            self.ids = NULL
            self.ids_size = 0


cdef void *larger(void *memory, size_t size) except NULL:
    cdef void *made = PyMem_Realloc(memory, size)
    if made is NULL:
        raise MemoryError
    return made


cdef Scratch _scratch = Scratch()


cdef int read_event(Cursor *cursor, Event *event, Scratch scratch) except -1:
    """Reads one event and appends its numbers to `scratch`; one of a form that is not read here is unsupported."""
    cdef int fields = map_size(cursor) - 1
    event.hashes = event.ids = 0
    event.blocks = event.tokens = event.group = event.window = event.lora_id = -1
    event.size = event.parent = 0
    event.has_parent = event.is_first_of_group = False
    event.kind.at = event.lora_name.at = NULL
    if accept(cursor, 5, b"\xa4type"):
        event.is_store = accept(cursor, 12, b"\xabBlockStored")
        if event.is_store:
            return read_stored(cursor, fields, event, scratch)
        if accept(cursor, 13, b"\xacBlockRemoved"):
            return read_removed(cursor, fields, event, scratch)
    cursor.unsupported = True
    return 0


cdef int read_removed(Cursor *cursor, int fields, Event *event, Scratch scratch) except -1:
    cdef int length
    while fields > 0 and not cursor.unsupported:
        fields -= 1
        length = text_size(cursor)
        if length == 12 and accept(cursor, 12, b"block_hashes"):
            read_hashes(cursor, event, scratch)
        elif length == 6 and accept(cursor, 6, b"medium"):
            expect_gpu(cursor)
        elif length == 9 and accept(cursor, 9, b"group_idx"):
            event.group = number_or_none(cursor)
        else:
            skip_unknown(cursor, length)
    if event.blocks < 0:
        cursor.unsupported = True
    return 0


cdef int read_stored(Cursor *cursor, int fields, Event *event, Scratch scratch) except -1:
    cdef int length
    while fields > 0 and not cursor.unsupported:
        fields -= 1
        length = text_size(cursor)
        if length == 12 and accept(cursor, 12, b"block_hashes"):
            read_hashes(cursor, event, scratch)
        elif length == 17 and accept(cursor, 17, b"parent_block_hash"):
            event.has_parent = not accept_nil(cursor)
            event.parent = number(cursor) if event.has_parent else 0
        elif length == 9 and accept(cursor, 9, b"token_ids"):
            event.tokens = array_size(cursor)
            scratch.reserve_ids(event.tokens)
            event.ids = scratch.tokens
            scratch.tokens += event.tokens
            ids_into(cursor, event.tokens, scratch.ids + event.ids)
        elif length == 10 and accept(cursor, 10, b"block_size"):
            event.size = number(cursor)
        elif length == 6 and accept(cursor, 6, b"medium"):
            expect_gpu(cursor)
        elif length == 7 and accept(cursor, 7, b"lora_id"):
            event.lora_id = number_or_none(cursor)
        elif length == 9 and accept(cursor, 9, b"lora_name"):
            event.lora_name = text_or_none(cursor)
        elif length == 10 and accept(cursor, 10, b"extra_keys"):
            skip_nil_array(cursor)
        elif length == 9 and accept(cursor, 9, b"group_idx"):
            event.group = number_or_none(cursor)
        elif length == 18 and accept(cursor, 18, b"kv_cache_spec_kind"):
            event.kind = text_or_none(cursor)
        elif length == 28 and accept(cursor, 28, b"kv_cache_spec_sliding_window"):
            event.window = number_or_none(cursor)
        elif (length == 19 and accept(cursor, 19, b"lookahead_token_ids")) or (
            length == 10 and accept(cursor, 10, b"cache_salt")
        ):
            if not accept_nil(cursor):
                cursor.unsupported = True
        else:
            skip_unknown(cursor, length)
    if cursor.unsupported or event.blocks <= 0 or not 0 < event.size <= _LARGEST_BLOCK:
        cursor.unsupported = True
    elif event.tokens != event.blocks * event.size or (event.lora_name.at is NULL and event.lora_id >= 0):
        cursor.unsupported = True
    event.is_first_of_group = not event.has_parent and event.kind.at is not NULL
    return 0


cdef int read_hashes(Cursor *cursor, Event *event, Scratch scratch) except -1:
    event.blocks = array_size(cursor)
    scratch.reserve_blocks(event.blocks)
    event.hashes = scratch.blocks
    scratch.blocks += event.blocks
    numbers_into(cursor, event.blocks, scratch.hashes + event.hashes)
    return 0


cdef object removed_of(Event *event, object removed, object gpu):
    return removed(hashes_of(event), gpu, None if event.group < 0 else event.group)


cdef object stored_of(Event *event, object stored, object gpu):
    cdef KeyVector hashes = hashes_of(event)
    cdef array ids = new_ids(event.tokens)
    memcpy(ids.data.as_uints, _scratch.ids + event.ids, event.tokens * sizeof(uint32_t))
    # Only now come objects whose creation may run other code, which may read another batch.
    parent = event.parent if event.has_parent else None
    lora_name, kind = text_of(&event.lora_name), text_of(&event.kind)
    group = None if event.group < 0 else event.group
    window = None if event.window < 0 else event.window
    return stored(hashes, parent, ids, event.size, gpu, lora_name, (), group, kind, window)


cdef KeyVector hashes_of(Event *event):
    cdef KeyVector hashes = new_vector(event.blocks)
    memcpy(hashes.at, _scratch.hashes + event.hashes, event.blocks * sizeof(int64_t))
    return hashes


cdef object text_of(Text *text):
    if text.at is NULL:
        return None
    if text.size == 14 and memcmp(text.at, b"full_attention", 14) == 0:
        return "full_attention"
    return PyUnicode_DecodeASCII(text.at, text.size, NULL)


cdef inline bint accept(Cursor *cursor, Py_ssize_t length, const char *expected) noexcept:
    """Consumes `expected` if it is next."""
    if cursor.end - cursor.at < length or memcmp(cursor.at, expected, length) != 0:
        return False
    cursor.at += length
    return True


cdef inline bint accept_nil(Cursor *cursor) noexcept:
    if cursor.at >= cursor.end or cursor.at[0] != _NIL:
        return False
    cursor.at += 1
    return True


cdef inline void expect_gpu(Cursor *cursor) noexcept:
    if not accept_nil(cursor) and not accept(cursor, 4, b"\xa3GPU"):
        cursor.unsupported = True


cdef void skip_nil_array(Cursor *cursor) noexcept:
    """Skips nil, or an array of nils (extra_keys of blocks without any)."""
    cdef Py_ssize_t count
    if accept_nil(cursor):
        return
    for count in range(array_size(cursor)):
        if not accept_nil(cursor):
            cursor.unsupported = True
            return


cdef void skip_unknown(Cursor *cursor, int length) noexcept:
    """Skips an unknown field whose name has `length` bytes, if its value is a string, a number or nil."""
    cdef Py_ssize_t left = cursor.end - cursor.at - length, size
    if length < 0 or left <= 0 or (length == 4 and memcmp(cursor.at, b"type", 4) == 0):
        cursor.unsupported = True
        return
    cursor.at += length
    if cursor.at[0] & 0xE0 == 0xA0:
        size = 1 + (cursor.at[0] & 0x1F)
    elif cursor.at[0] == 0xD9 and left > 1:
        size = 2 + cursor.at[1]
    elif cursor.at[0] == _NIL:
        size = 1
    else:
        number(cursor)
        return
    if size > left:
        cursor.unsupported = True
    else:
        cursor.at += size


cdef inline int text_size(Cursor *cursor) noexcept:
    """Reads the header of a fixstr and gives its length; -1 for anything else."""
    if cursor.at >= cursor.end or cursor.at[0] & 0xE0 != 0xA0:
        cursor.unsupported = True
        return -1
    cdef int length = cursor.at[0] & 0x1F
    cursor.at += 1
    return length


cdef int map_size(Cursor *cursor) noexcept:
    """Reads the header of a map with up to 65,535 fields."""
    cdef int size
    if cursor.end - cursor.at >= 3:
        if cursor.at[0] & 0xF0 == 0x80:
            size = cursor.at[0] & 0xF
            cursor.at += 1
            return size
        if cursor.at[0] == 0xDE:
            size = cursor.at[1] << 8 | cursor.at[2]
            cursor.at += 3
            return size
    cursor.unsupported = True
    return 0


cdef int64_t number_or_none(Cursor *cursor) noexcept:
    """Reads nil, which gives -1, or a number of at least 0."""
    cdef int64_t found
    if accept_nil(cursor):
        return -1
    found = number(cursor)
    if found < 0:
        cursor.unsupported = True
    return found


cdef Text text_or_none(Cursor *cursor) noexcept:
    """Reads nil or a short ASCII string."""
    cdef Text text
    cdef int position
    text.at, text.size = NULL, 0
    if accept_nil(cursor):
        return text
    text.size = text_size(cursor)
    if text.size < 0 or cursor.end - cursor.at < text.size:
        cursor.unsupported = True
        return text
    text.at = <const char *> cursor.at
    for position in range(text.size):
        if cursor.at[position] > 0x7F:
            cursor.unsupported = True
    cursor.at += text.size
    return text
