"""Whole batches applied to one cache group, without an object per event."""

cimport cython
from libc.stdint cimport int64_t, uint32_t

from service.native.batches cimport Event, Scratch, batch_end, batch_start, read_event
from service.native.hashing cimport chain_keys
from service.native.msgpack_ints cimport Cursor
from service.native.table cimport GroupMasks, Table

cdef enum:
    _LARGEST = 128 * 1024  # bytes of a batch; larger ones may be applied in slices
    _MOST_EVENTS = 4096

cdef Scratch _scratch = Scratch()


@cython.final
cdef class GroupWriter:
    """Applies batches of the common form (read_common_batch) whose events are all about one group.

    `masks` are those of the device, `hashes` the group's block hashes with their keys. The key of a prompt's first block
    is chained to `root`; `block_size` is in tokens. `group` is the index that events of the group name, or None.
    """

    cdef GroupMasks masks
    cdef Table hashes
    cdef object bit, finish
    cdef dict extra_copies, ambiguous_copies
    cdef set half_removed
    cdef int64_t root, block_size, group, rank
    cdef bint removes
    cdef Py_ssize_t events, added, removed, unknown

    def __init__(
        self,
        GroupMasks masks not None,
        Table hashes not None,
        *,
        bit,
        int64_t root,
        int64_t block_size,
        group,
        int64_t rank,
        dict extra_copies not None,
        dict ambiguous_copies not None,
    ):
        self.masks, self.hashes, self.bit, self.root, self.block_size = masks, hashes, bit, root, block_size
        self.group, self.rank = -1 if group is None else group, rank
        self.extra_copies, self.ambiguous_copies = extra_copies, ambiguous_copies
        self.half_removed = set()

    def open(self, finish, *, bint removes, set half_removed not None):
        """Sets who applies the rest of a batch, and whether any block may be removed but `half_removed` ones and copies."""
        self.finish, self.removes, self.half_removed = finish, removes, half_removed

    def apply(self, bytes packed not None, double since):
        """Stores new blocks behind known ones, and removes blocks that are held once, up to an event that is neither.

        From that event on, `finish` applies the batch: it is called with the payload and the event's position. Gives the
        batch's timestamp. None, without any effect, if that is the first event, and for a batch dated before `since`, of
        more than 128 KiB, or with an event of another group or form.
        """
        cdef Cursor cursor
        cdef double timestamp
        cdef Py_ssize_t position, count
        cdef int64_t rank
        if len(packed) > _LARGEST:
            return None
        count = batch_start(packed, &cursor, &timestamp)
        if not 0 < count <= _MOST_EVENTS or not timestamp >= since:
            return None
        _scratch.trim()
        _scratch.empty()
        _scratch.reserve_events(count)
        for position in range(count):
            read_event(&cursor, &_scratch.events[position], _scratch)
            if cursor.unsupported or not self.is_plain(&_scratch.events[position]):
                return None
        rank = batch_end(packed, &cursor)
        if cursor.unsupported or rank != self.rank:
            return None
        for position in range(count):
            if not self.apply_one(&_scratch.events[position]):
                if position:
                    self.finish(packed, position)
                    return timestamp
                return None
            self.events += 1
        return timestamp

    def take(self):
        """The numbers of events and of added, removed and unknown blocks since the last call."""
        counted = self.events, self.added, self.removed, self.unknown
        self.events = self.added = self.removed = self.unknown = 0
        return counted

    cdef bint is_plain(self, Event *event) noexcept:
        """Whether an event is about this group, and speaks of nothing else."""
        if event.is_store:
            return event.group == self.group and event.size == self.block_size and event.lora_name.at is NULL
        return self.removes and (event.group == self.group or event.group < 0 or self.group < 0)

    cdef bint apply_one(self, Event *event) except -1:
        """False, without any effect, if the event is to be decoded."""
        cdef const int64_t *hashes = _scratch.hashes + event.hashes
        return self.store(event, hashes) if event.is_store else self.remove(hashes, event.blocks)

    cdef bint store(self, Event *event, const int64_t *hashes) except -1:
        cdef int64_t parent = self.root
        cdef list held
        if event.has_parent and not self.hashes.find_value(event.parent, &parent):
            return False
        chain_keys(
            parent,
            <const char *> (_scratch.ids + event.ids),
            event.size * sizeof(uint32_t),
            event.blocks,
            _scratch.keys,
        )
        held = self.masks.add_blocks(self.bit, self.hashes, hashes, _scratch.keys, event.blocks)
        if held is not None:
            self.undo(hashes, event.blocks, held)
            return False
        self.added += event.blocks
        return True

    cdef int undo(self, const int64_t *hashes, Py_ssize_t blocks, list held) except -1:
        """Takes back the blocks of a store but those that were held before."""
        cdef Py_ssize_t position
        cdef set before = set(held)
        for position in range(blocks):
            if position not in before:
                self.masks.discard_one(self.bit, _scratch.keys[position])
                self.hashes.forget_one(hashes[position])
        self.masks.sweep()
        return 0

    cdef bint remove(self, const int64_t *hashes, Py_ssize_t blocks) except -1:
        cdef Py_ssize_t position, removed = 0
        cdef int64_t key
        if self.extra_copies or self.ambiguous_copies or self.half_removed:
            for position in range(blocks):
                if self.tells_of_copies(hashes[position]):
                    return False
        for position in range(blocks):
            if self.hashes.find_value(hashes[position], &key) and self.masks.discard_one(self.bit, key):
                self.hashes.forget_one(hashes[position])
                removed += 1
        self.masks.sweep()
        self.removed += removed
        self.unknown += blocks - removed
        return True

    cdef bint tells_of_copies(self, object block_hash) except -1:
        """Whether the removal of a block tells something of its copies (service/index/copies.py)."""
        return (
            block_hash in self.half_removed
            or block_hash in self.ambiguous_copies
            or (block_hash, 0) in self.extra_copies  # Tier.GPU
        )
