"""One-pass reader of the common form of event batches.

service/events/wire.py decodes every other form, and must read these batches to the same events.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from service.native.msgpack_ints cimport Cursor, array_size, hashes, number, tokens
from service.native.vectors cimport KeyVector

cdef extern from *:
    """
    #define swapped64 __builtin_bswap64
    """
    uint64_t swapped64(uint64_t number) noexcept nogil

cdef enum:
    _NIL = 0xC0
    _LARGEST_BLOCK = 1 << 20  # in tokens


def read_common_batch(bytes packed not None, stored, removed, gpu):
    """Gives a payload's timestamp, events, rank, and whether it stores a prompt's first block in a cache group.

    The common form is `[float, [map, …], rank]`: each map begins with its tag and is BlockStored with tokens or
    BlockRemoved, on the GPU, with no extra keys but a LoRA name. None for any other form. `stored` and `removed`
    construct the events from the fields of service.index.base.
    """
    cdef Reader reader
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed), count
    cdef const unsigned char *at = <const unsigned char *> PyBytes_AS_STRING(packed)
    cdef uint64_t bits
    cdef double timestamp
    cdef int64_t rank = 0
    cdef list events = []
    if size < 11 or at[0] & 0xFE != 0x92 or at[1] != 0xCB:
        return None
    memcpy(&bits, at + 2, 8)
    bits = swapped64(bits)
    memcpy(&timestamp, &bits, 8)
    reader.cursor.at = at + 10
    reader.cursor.end = at + size
    reader.cursor.unsupported = reader.from_first_block = False
    for count in range(array_size(&reader.cursor)):
        event = read_event(&reader, stored, removed, gpu)
        if reader.cursor.unsupported:
            return None
        events.append(event)
    if at[0] == 0x93 and not accept_nil(&reader.cursor):
        rank = number(&reader.cursor)
    if reader.cursor.unsupported or reader.cursor.at != reader.cursor.end or rank < 0:
        return None
    return timestamp, events, rank, reader.from_first_block


cdef struct Reader:
    Cursor cursor
    bint from_first_block


cdef object read_event(Reader *reader, object stored, object removed, object gpu):
    """Reads one event; None if it is of a form that is not read here."""
    cdef Cursor *cursor = &reader.cursor
    cdef int fields = map_size(cursor) - 1
    if accept(cursor, 5, b"\xa4type"):
        if accept(cursor, 12, b"\xabBlockStored"):
            return read_stored(reader, fields, stored, gpu)
        if accept(cursor, 13, b"\xacBlockRemoved"):
            return read_removed(cursor, fields, removed, gpu)
    cursor.unsupported = True
    return None


cdef object read_removed(Cursor *cursor, int fields, object removed, object gpu):
    cdef KeyVector found = None
    cdef int length
    group = None
    while fields > 0 and not cursor.unsupported:
        fields -= 1
        length = text_size(cursor)
        if length == 12 and accept(cursor, 12, b"block_hashes"):
            found = hashes(cursor)
        elif length == 6 and accept(cursor, 6, b"medium"):
            expect_gpu(cursor)
        elif length == 9 and accept(cursor, 9, b"group_idx"):
            group = number_or_none(cursor)
        else:
            skip_unknown(cursor, length)
    if found is None or cursor.unsupported:
        cursor.unsupported = True
        return None
    return removed(found, gpu, group)


cdef object read_stored(Reader *reader, int fields, object stored, object gpu):
    cdef Cursor *cursor = &reader.cursor
    cdef KeyVector found = None
    cdef int length
    cdef int64_t size = 0
    ids = parent = lora_id = lora_name = group = kind = window = None
    while fields > 0 and not cursor.unsupported:
        fields -= 1
        length = text_size(cursor)
        if length == 12 and accept(cursor, 12, b"block_hashes"):
            found = hashes(cursor)
        elif length == 17 and accept(cursor, 17, b"parent_block_hash"):
            parent = None if accept_nil(cursor) else number(cursor)
        elif length == 9 and accept(cursor, 9, b"token_ids"):
            ids = tokens(cursor)
        elif length == 10 and accept(cursor, 10, b"block_size"):
            size = number(cursor)
        elif length == 6 and accept(cursor, 6, b"medium"):
            expect_gpu(cursor)
        elif length == 7 and accept(cursor, 7, b"lora_id"):
            lora_id = number_or_none(cursor)
        elif length == 9 and accept(cursor, 9, b"lora_name"):
            lora_name = text_or_none(cursor)
        elif length == 10 and accept(cursor, 10, b"extra_keys"):
            skip_nil_array(cursor)
        elif length == 9 and accept(cursor, 9, b"group_idx"):
            group = number_or_none(cursor)
        elif length == 18 and accept(cursor, 18, b"kv_cache_spec_kind"):
            kind = "full_attention" if accept(cursor, 15, b"\xaefull_attention") else text_or_none(cursor)
        elif length == 28 and accept(cursor, 28, b"kv_cache_spec_sliding_window"):
            window = number_or_none(cursor)
        elif (length == 19 and accept(cursor, 19, b"lookahead_token_ids")) or (
            length == 10 and accept(cursor, 10, b"cache_salt")
        ):
            if not accept_nil(cursor):
                cursor.unsupported = True
        else:
            skip_unknown(cursor, length)
    if cursor.unsupported or found is None or ids is None or (lora_name is None and lora_id is not None):
        cursor.unsupported = True
        return None
    if not 0 < size <= _LARGEST_BLOCK or not found.size or len(ids) != found.size * size:
        cursor.unsupported = True
        return None
    if parent is None and kind is not None:
        reader.from_first_block = True
    return stored(found, parent, ids, size, gpu, lora_name, (), group, kind, window)


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


cdef object number_or_none(Cursor *cursor):
    """Reads nil or a number of at least 0."""
    cdef int64_t found
    if accept_nil(cursor):
        return None
    found = number(cursor)
    if found < 0:
        cursor.unsupported = True
    return found


cdef object text_or_none(Cursor *cursor):
    """Reads nil or a short ASCII string."""
    cdef int length, position
    if accept_nil(cursor):
        return None
    length = text_size(cursor)
    if length < 0 or cursor.end - cursor.at < length:
        cursor.unsupported = True
        return None
    for position in range(length):
        if cursor.at[position] > 0x7F:
            cursor.unsupported = True
            return None
    cursor.at += length
    return PyUnicode_DecodeASCII(<const char *> cursor.at - length, length, NULL)
