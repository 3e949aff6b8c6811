"""Whole batches applied to one cache group, without an object per event."""

cimport cython
from libc.stdint cimport int64_t, uint32_t

from service.native.batches cimport Event, Scratch, batch_end, batch_start, read_event
from service.native.hashing cimport chain_keys
from service.native.msgpack_ints cimport Cursor
from service.native.table cimport GroupMasks, Table

cdef enum:
    _LARGEST = 128 * 1024  # bytes of a batch; larger ones may be applied in slices

cdef Scratch _scratch = Scratch()


@cython.final
cdef class GroupWriter:
    """Applies batches of the common form (read_common_batch) that have one event, about one group.

    `masks` are those of the device, `hashes` the group's block hashes with their keys. The key of a prompt's first block
    is chained to `root`; `block_size` is in tokens. `group` is the index that events of the group name, or None.
    """

    cdef GroupMasks masks
    cdef Table hashes
    cdef object bit
    cdef int64_t root, block_size, group, rank
    cdef public bint removes
    cdef Py_ssize_t added, removed, unknown
    cdef bint may_report

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
    ):
        self.masks, self.hashes, self.bit, self.root, self.block_size = masks, hashes, bit, root, block_size
        self.group, self.rank = -1 if group is None else group, rank
        self.removes = False

    def apply(self, bytes packed not None, double since):
        """Stores new blocks behind a known one, or, if it `removes`, removes blocks with all their copies.

        Gives the batch's timestamp. None, without any effect, for any other batch: one dated before `since` or of more
        than 128 KiB, or a store of which the group holds a block or lacks the parent.
        """
        cdef Cursor cursor
        cdef Event event
        cdef double timestamp
        cdef int64_t rank
        if len(packed) > _LARGEST or batch_start(packed, &cursor, &timestamp) != 1 or not timestamp >= since:
            return None
        read_event(&cursor, &event, _scratch)
        rank = batch_end(packed, &cursor)
        if cursor.unsupported or rank != self.rank:
            return None
        return timestamp if (self.store(&event) if event.is_store else self.remove(&event)) else None

    def take(self):
        """The numbers of added, removed and unknown blocks since the last call, and whether a store looked like a report
        of reuse in all but its new blocks."""
        counted = self.added, self.removed, self.unknown, self.may_report
        self.added = self.removed = self.unknown = 0
        self.may_report = False
        return counted

    cdef bint store(self, Event *event) except -1:
        cdef int64_t parent = self.root
        cdef list held
        if event.group != self.group or event.size != self.block_size or event.lora_name.at is not NULL:
            return False
        if event.has_parent and not self.hashes.find_value(event.parent, &parent):
            return False
        chain_keys(parent, <const char *> event.ids, event.size * sizeof(uint32_t), event.blocks, _scratch.keys)
        held = self.masks.add_blocks(self.bit, self.hashes, event.hashes, _scratch.keys, event.blocks)
        if held is not None:
            self.undo(event, held)
            return False
        self.added += event.blocks
        self.may_report |= event.is_first_of_group
        return True

    cdef int undo(self, Event *event, list held) except -1:
        """Takes back the blocks of a store but those that were held before."""
        cdef Py_ssize_t position
        cdef set before = set(held)
        for position in range(event.blocks):
            if position not in before:
                self.masks.discard_one(self.bit, _scratch.keys[position])
                self.hashes.forget_one(event.hashes[position])
        self.masks.sweep()
        return 0

    cdef bint remove(self, Event *event) except -1:
        cdef Py_ssize_t position, removed = 0
        cdef int64_t key
        if not self.removes or (event.group != self.group and event.group >= 0 and self.group >= 0):
            return False
        for position in range(event.blocks):
            if self.hashes.find_value(event.hashes[position], &key) and self.masks.discard_one(self.bit, key):
                self.hashes.forget_one(event.hashes[position])
                removed += 1
        self.masks.sweep()
        self.removed += removed
        self.unknown += event.blocks - removed
        return True
