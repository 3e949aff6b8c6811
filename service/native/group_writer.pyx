"""Whole batches applied to one cache group, without an object per event."""

cimport cython
from libc.stdint cimport int64_t, uint32_t

from service.native.batches cimport Event, Scratch, batch_end, batch_start, read_event
from service.native.hashing cimport chain_keys
from service.native.msgpack_ints cimport Cursor
from service.native.table cimport GroupMasks, Table

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

    def apply(self, bytes packed not None, double since, bint removes):
        """Stores new blocks behind a known one, or removes blocks, whatever their copies.

        Gives the timestamp, the numbers of added, removed and unknown blocks, and whether the event may be a report of
        reuse by all but its blocks. None, without any effect, for any other batch: one dated before `since`, a store
        of which the group holds a block or lacks the parent, or a removal without `removes`.
        """
        cdef Cursor cursor
        cdef Event event
        cdef double timestamp
        cdef int64_t rank
        if batch_start(packed, &cursor, &timestamp) != 1 or not timestamp >= since:
            return None
        read_event(&cursor, &event, _scratch)
        rank = batch_end(packed, &cursor)
        if cursor.unsupported or rank != self.rank:
            return None
        if event.is_store:
            return self.store(&event, timestamp)
        return self.remove(&event, timestamp) if removes else None

    cdef object store(self, Event *event, double timestamp):
        cdef int64_t parent = self.root
        cdef list held
        if event.group != self.group or event.size != self.block_size or event.lora_name.at is not NULL:
            return None
        if event.has_parent and not self.hashes.find_value(event.parent, &parent):
            return None
        chain_keys(parent, <const char *> event.ids, event.size * sizeof(uint32_t), event.blocks, _scratch.keys)
        held = self.masks.add_blocks(self.bit, self.hashes, event.hashes, _scratch.keys, event.blocks)
        if held is not None:
            self.undo(event, held)
            return None
        return timestamp, event.blocks, 0, 0, event.is_first_of_group

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

    cdef object remove(self, Event *event, double timestamp):
        cdef Py_ssize_t position, removed = 0
        cdef int64_t key
        if event.group != self.group and event.group >= 0 and self.group >= 0:
            return None
        for position in range(event.blocks):
            if self.hashes.find_value(event.hashes[position], &key) and self.masks.discard_one(self.bit, key):
                self.hashes.forget_one(event.hashes[position])
                removed += 1
        self.masks.sweep()
        return timestamp, 0, removed, event.blocks - removed, False
