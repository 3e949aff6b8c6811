"""The hash tables of the index; service/native/fallback.py has dicts instead."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from service.native.vectors cimport KeyVector, as_vector, new_vector

cdef extern from *:
    """
    #define prefetch(address) __builtin_prefetch(address)
    """
    void prefetch(const void *address) nogil

cdef Py_ssize_t _LARGEST = 12288  # entries of a shard: rebuilding or splitting one takes about 0.1 ms
cdef int _DEEPEST = 24
cdef uint32_t _WIDE_FREE = 0xFFFFFFFFU
cdef int64_t _ZERO = 0x1E3779B97F4A7C15LL  # stored instead of key 0, which marks deleted entries
cdef enum:
    _FREE = 0xFFFF
    _AHEAD = 6  # blocks between the prefetch of a slot and its use


cdef inline uint64_t mix(int64_t key) noexcept nogil:
    """A 64-bit hash whose every bit depends on all bits of the key."""
    cdef uint64_t h = <uint64_t> key
    h ^= h >> 32
    h *= 0x2545F4914F6CDD1DULL
    h ^= h >> 29
    h *= 0x2545F4914F6CDD1DULL
    return h ^ (h >> 32)


cdef inline Py_ssize_t capacity_of(Py_ssize_t live) noexcept nogil:
    """The capacity for `live` entries, with room to grow by a sixth."""
    return live + live // 6 + 4


cdef Shard *new_shard(Py_ssize_t capacity, int depth, int width) noexcept nogil:
    cdef Shard *shard = <Shard *> calloc(1, sizeof(Shard))
    if shard is not NULL:
        shard.depth = depth
        shard.width = width
        if not reset(shard, capacity):
            free(shard)
            return NULL
    return shard


cdef void free_shard(Shard *shard) noexcept nogil:
    free(shard.keys)
    free(shard)


cdef bint reset(Shard *shard, Py_ssize_t capacity) noexcept nogil:
    """Allocates `capacity` entries, and forgets those that it has without freeing them; False without memory."""
    cdef bint wide = capacity >= _FREE
    cdef uint64_t places = capacity + capacity // 3 + 1
    cdef size_t slot_bytes = places * (sizeof(uint32_t) if wide else sizeof(uint16_t))
    cdef char *block = <char *> malloc(capacity * (sizeof(int64_t) + shard.width) + slot_bytes)
    if block is NULL:
        return False
    shard.keys = <int64_t *> block
    shard.values = block + capacity * sizeof(int64_t)
    shard.slots = block + capacity * (sizeof(int64_t) + shard.width)
    shard.places = places
    shard.wide = wide
    shard.capacity = capacity
    shard.used = shard.live = shard.head = shard.next = 0
    memset(shard.slots, 0xFF, slot_bytes)
    return True


cdef inline int64_t value_at(Shard *shard, Py_ssize_t entry) noexcept nogil:
    return (<int64_t *> shard.values)[entry] if shard.width == 8 else (<int32_t *> shard.values)[entry]


cdef inline void set_value(Shard *shard, Py_ssize_t entry, int64_t value) noexcept nogil:
    if shard.width == 8:
        (<int64_t *> shard.values)[entry] = value
    else:
        (<int32_t *> shard.values)[entry] = <int32_t> value


cdef inline Py_ssize_t slot_at(Shard *shard, uint64_t slot) noexcept nogil:
    """The entry of a slot; -1 if it is free."""
    cdef uint32_t entry
    if shard.wide:
        entry = (<uint32_t *> shard.slots)[slot]
        return -1 if entry == _WIDE_FREE else <Py_ssize_t> entry
    entry = (<uint16_t *> shard.slots)[slot]
    return -1 if entry == _FREE else <Py_ssize_t> entry


cdef inline void set_slot(Shard *shard, uint64_t slot, Py_ssize_t entry) noexcept nogil:
    if shard.wide:
        (<uint32_t *> shard.slots)[slot] = <uint32_t> entry
    else:
        (<uint16_t *> shard.slots)[slot] = <uint16_t> entry


cdef inline uint64_t home(Shard *shard, uint64_t h) noexcept nogil:
    return (<uint64_t> <uint32_t> h * shard.places) >> 32


cdef inline Py_ssize_t find(Shard *shard, int64_t key, uint64_t h) noexcept nogil:
    """The entry of a key; -1 if it is absent."""
    cdef uint64_t slot = home(shard, h)
    cdef Py_ssize_t entry
    while True:
        entry = slot_at(shard, slot)
        if entry < 0 or shard.keys[entry] == key:
            return entry
        slot += 1
        if slot == shard.places:
            slot = 0


cdef inline void append(Shard *shard, int64_t key, int64_t value, uint64_t h) noexcept nogil:
    """Appends an absent key; the shard must not be full."""
    cdef uint64_t slot = home(shard, h)
    while slot_at(shard, slot) >= 0:
        slot += 1
        if slot == shard.places:
            slot = 0
    set_slot(shard, slot, shard.used)
    shard.keys[shard.used] = key
    set_value(shard, shard.used, value)
    shard.used += 1
    shard.live += 1


cdef void drop(Shard *shard, Py_ssize_t entry, uint64_t h) noexcept nogil:
    """Deletes an entry; shifts the slots of its probe sequence back."""
    cdef uint64_t hole = home(shard, h), slot, from_home, from_hole
    cdef Py_ssize_t moved
    while slot_at(shard, hole) != entry:
        hole += 1
        if hole == shard.places:
            hole = 0
    slot = hole
    while True:
        slot += 1
        if slot == shard.places:
            slot = 0
        moved = slot_at(shard, slot)
        if moved < 0:
            break
        from_home = slot + shard.places - home(shard, mix(shard.keys[moved]))
        if from_home >= shard.places:
            from_home -= shard.places
        from_hole = slot - hole if slot >= hole else slot + shard.places - hole
        if from_home >= from_hole:
            set_slot(shard, hole, moved)
            hole = slot
    set_slot(shard, hole, -1)
    shard.keys[entry] = 0
    shard.live -= 1


cdef void take(Shard *shard, const int64_t *keys, Shard *other, Py_ssize_t used, uint64_t bit, uint64_t wanted) noexcept nogil:
    """Takes over the entries of another shard for whose hash `(h >> 40) & bit == wanted`."""
    cdef Py_ssize_t entry
    cdef uint64_t h
    for entry in range(used):
        if keys[entry]:
            h = mix(keys[entry])
            if (h >> 40) & bit == wanted:
                append(shard, keys[entry], value_at(other, entry), h)


cdef bint rebuild(Shard *shard, Py_ssize_t capacity) noexcept nogil:
    """Moves the live entries into `capacity` entries; False without memory."""
    cdef Shard old = shard[0]
    if not reset(shard, capacity):
        return False
    take(shard, old.keys, &old, old.used, 0, 0)
    free(old.keys)
    return True


@cython.final
cdef class Table:
    """A hash table of 64-bit keys and values, by extendible hashing.

    It grows shard by shard, so no operation moves more than one shard's entries.
    """

    def __cinit__(self, int width=8):
        self.width = width
        self.shards_at = <Shard **> PyMem_Malloc(sizeof(Shard *))
        if self.shards_at is NULL:
            raise MemoryError
        self.shards_at[0] = new_shard(capacity_of(0), 0, width)
        if self.shards_at[0] is NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.shards_at is not NULL:
            self.free_shards()

    cdef void free_shards(self) noexcept:
        cdef Py_ssize_t place
        for place in range((<Py_ssize_t> 1 << self.depth) - 1, -1, -1):  # a shard's first place comes last
            if self.shards_at[place] is not NULL and self.first_of(place) is not NULL:
                free_shard(self.shards_at[place])
        PyMem_Free(self.shards_at)
        self.shards_at = NULL

    cdef Shard *first_of(self, Py_ssize_t place) noexcept:
        """The shard at its first place in the directory; NULL at its other places."""
        cdef Shard *shard = self.shards_at[place]
        return shard if place == place & ((<Py_ssize_t> 1 << shard.depth) - 1) else NULL

    def __len__(self):
        return self.live

    def __contains__(self, int64_t key):
        if key == 0:
            key = _ZERO
        cdef uint64_t h = mix(key)
        return find(shard_of(self, h), key, h) >= 0

    def get(self, int64_t key):
        """The value of a key; None if it is absent."""
        cdef int64_t value
        return value if self.find_value(key, &value) else None

    cdef bint find_value(self, int64_t key, int64_t *value) noexcept:
        """Reads the value of a key; False if it is absent."""
        if key == 0:
            key = _ZERO
        cdef uint64_t h = mix(key)
        cdef Shard *shard = shard_of(self, h)
        cdef Py_ssize_t entry = find(shard, key, h)
        if entry >= 0:
            value[0] = value_at(shard, entry)
        return entry >= 0

    def put(self, int64_t key, int64_t value):
        """Sets the value of a key."""
        set_key(self, key, value)

    def put_all(self, asked, values):
        """Sets the values of several keys, in this order; both are key vectors."""
        cdef KeyVector keys = as_vector(asked), new = as_vector(values)
        cdef Py_ssize_t position
        if keys.size != new.size:
            raise ValueError(f"{keys.size} keys and {new.size} values")
        for position in range(keys.size):
            set_key(self, keys.at[position], new.at[position])

    def forget(self, int64_t key):
        """Deletes a key if it is present."""
        self.forget_one(key)

    cdef void forget_one(self, int64_t key) noexcept:
        if key == 0:
            key = _ZERO
        cdef uint64_t h = mix(key)
        cdef Shard *shard = shard_of(self, h)
        cdef Py_ssize_t entry = find(shard, key, h)
        if entry >= 0:
            drop(shard, entry, h)
            self.live -= 1

    cdef int add(self, Shard *shard, int64_t key, int64_t value, uint64_t h) except -1:
        """Adds an absent key to its shard, which may be split for it."""
        cdef Py_ssize_t capacity
        while shard.used >= shard.capacity:
            capacity = capacity_of(shard.live)
            if shard.planned > capacity:
                capacity = shard.planned
                shard.planned = 0
            if capacity <= _LARGEST or shard.depth >= _DEEPEST or capacity > capacity_of(shard.live):
                if not rebuild(shard, capacity):
                    raise MemoryError
            else:
                self.split(shard, h)
                shard = shard_of(self, h)
        append(shard, key, value, h)
        self.live += 1
        return 0

    cdef int split(self, Shard *shard, uint64_t h) except -1:
        """Replaces the shard of a hash by two."""
        cdef Py_ssize_t size = <Py_ssize_t> 1 << self.depth, place, entry, above = 0
        cdef uint64_t bit = <uint64_t> 1 << shard.depth
        cdef Shard **larger
        cdef Shard *lower
        cdef Shard *upper
        if shard.depth == self.depth:
            larger = <Shard **> PyMem_Realloc(self.shards_at, 2 * size * sizeof(Shard *))
            if larger is NULL:
                raise MemoryError
            self.shards_at = larger
            for place in range(size):
                larger[size + place] = larger[place]
            self.depth += 1
            size *= 2
        for entry in range(shard.used):
            if shard.keys[entry] and (mix(shard.keys[entry]) >> 40) & bit:
                above += 1
        lower = new_shard(capacity_of(shard.live - above), shard.depth + 1, self.width)
        upper = new_shard(capacity_of(above), shard.depth + 1, self.width)
        if lower is NULL or upper is NULL:
            if lower is not NULL:
                free_shard(lower)
            if upper is not NULL:
                free_shard(upper)
            raise MemoryError
        take(lower, shard.keys, shard, shard.used, bit, 0)
        take(upper, shard.keys, shard, shard.used, bit, bit)
        for place in range(<Py_ssize_t> ((h >> 40) & (bit - 1)), size, <Py_ssize_t> bit):
            self.shards_at[place] = upper if place & <Py_ssize_t> bit else lower
        free_shard(shard)
        return 0

    def oldest(self, Py_ssize_t most):
        """Up to `most` keys: of each shard those inserted first."""
        cdef list found = []
        cdef Py_ssize_t size = <Py_ssize_t> 1 << self.depth, place, entry, left, each = most // size + 1, missing = most
        cdef Shard *shard
        for place in range(size):
            if missing <= 0:
                break
            shard = self.first_of(place)
            if shard is NULL:
                continue
            left = min(each, missing)
            entry = shard.head
            while entry < shard.used and left > 0:
                if shard.keys[entry]:
                    found.append(0 if shard.keys[entry] == _ZERO else shard.keys[entry])
                    left -= 1
                    missing -= 1
                elif entry == shard.head:
                    shard.head = entry + 1
                entry += 1
        return found

    def take_oldest(self, Py_ssize_t most):
        """Deletes the oldest entries and gives their values."""
        cdef KeyVector keys = as_vector(self.oldest(most))
        cdef KeyVector values = new_vector(keys.size)
        cdef Py_ssize_t position, entry
        cdef int64_t key
        cdef uint64_t h
        cdef Shard *shard
        for position in range(keys.size):
            key = keys.at[position] if keys.at[position] else _ZERO
            h = mix(key)
            shard = shard_of(self, h)
            entry = find(shard, key, h)
            values.at[position] = value_at(shard, entry)
            drop(shard, entry, h)
            self.live -= 1
        return values

    def drain(self, Py_ssize_t most):
        """Deletes up to `most` entries and gives their values; from then on the table can only be drained further."""
        cdef KeyVector values = new_vector(max(0, min(most, self.live)))
        cdef Py_ssize_t count = 0, entry
        cdef Shard *shard
        while count < values.size:
            shard = self.first_of(self.drained)
            if shard is NULL or shard.live == 0:
                if shard is not NULL and not rebuild(shard, 0):
                    raise MemoryError
                self.drained += 1
                continue
            entry = shard.head
            while entry < shard.used and count < values.size:
                if shard.keys[entry]:
                    values.at[count] = value_at(shard, entry)
                    count += 1
                    shard.live -= 1
                    self.live -= 1
                    shard.keys[entry] = 0
                entry += 1
            shard.head = entry
        return values

    def shards(self):
        """The depth and the number of entries of the shard at each place of the directory."""
        cdef Py_ssize_t place
        return [(self.shards_at[place].depth, self.shards_at[place].live) for place in range(1 << self.depth)]

    def shape(self, list shards):
        """Gives an empty table the shards of another one, as `shards` says, so that its oldest entries are the same.

        Ignores what is no directory. The shards get their memory with their first entries.
        """
        cdef int depth = 0, shared
        cdef Py_ssize_t size = len(shards), place, first, live
        cdef Shard **made
        while (<Py_ssize_t> 1 << depth) < size:
            depth += 1
        if self.live or depth > _DEEPEST or (<Py_ssize_t> 1 << depth) != size:
            return
        for place in range(size):
            shared = shards[place][0]
            if not 0 <= shared <= depth or shards[place & ((<Py_ssize_t> 1 << shared) - 1)][0] != shared:
                return
        made = <Shard **> PyMem_Malloc(size * sizeof(Shard *))
        if made is NULL:
            raise MemoryError
        for place in range(size):
            shared, live = shards[place]
            first = place & ((<Py_ssize_t> 1 << shared) - 1)
            made[place] = new_shard(capacity_of(0), shared, self.width) if first == place else made[first]
            if made[place] is NULL:
                while place > 0:
                    place -= 1
                    if place == place & ((<Py_ssize_t> 1 << made[place].depth) - 1):
                        free_shard(made[place])
                PyMem_Free(made)
                raise MemoryError
            if first == place and 0 < live <= _LARGEST * 2:
                made[place].planned = capacity_of(live)
        self.free_shards()
        self.shards_at = made
        self.depth = depth

    def slices(self):
        """All keys and their values, 8 bytes little-endian each; of each shard in the order of insertion."""
        cdef Py_ssize_t place = 0
        while place < (<Py_ssize_t> 1 << self.depth):
            if self.first_of(place) is not NULL and self.shards_at[place].live:
                yield packed(self.shards_at[place])
            place += 1

    def items(self):
        """All keys with their values, for tests."""
        cdef list found = []
        cdef Py_ssize_t place, entry
        cdef Shard *shard
        for place in range(<Py_ssize_t> 1 << self.depth):
            shard = self.first_of(place)
            if shard is not NULL:
                for entry in range(shard.used):
                    if shard.keys[entry]:
                        found.append((0 if shard.keys[entry] == _ZERO else shard.keys[entry], value_at(shard, entry)))
        return found


cdef tuple packed(Shard *shard):
    """The keys and values of a shard's live entries, 8 bytes little-endian each."""
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, shard.live * sizeof(int64_t))
    cdef bytes values = PyBytes_FromStringAndSize(NULL, shard.live * sizeof(int64_t))
    cdef int64_t *key_at = <int64_t *> PyBytes_AS_STRING(keys)
    cdef int64_t *value = <int64_t *> PyBytes_AS_STRING(values)
    cdef Py_ssize_t entry, count = 0
    for entry in range(shard.head, shard.used):
        if shard.keys[entry]:
            key_at[count] = 0 if shard.keys[entry] == _ZERO else shard.keys[entry]
            value[count] = value_at(shard, entry)
            count += 1
    return keys, values


cdef inline Shard *shard_of(Table table, uint64_t h) noexcept:
    return table.shards_at[(h >> 40) & ((<uint64_t> 1 << table.depth) - 1)]


cdef int set_key(Table table, int64_t key, int64_t value) except -1:
    if key == 0:
        key = _ZERO
    cdef uint64_t h = mix(key)
    cdef Shard *shard = shard_of(table, h)
    cdef Py_ssize_t entry = find(shard, key, h)
    if entry >= 0:
        set_value(shard, entry, value)
        return 0
    return table.add(shard, key, value, h)


cdef inline void expect(Table table, const int64_t *keys, Py_ssize_t position, Py_ssize_t size) noexcept:
    """Fetches the slot of a key that is looked for a little later."""
    cdef uint64_t h
    cdef Shard *shard
    if position < size:
        h = mix(keys[position])
        shard = shard_of(table, h)
        prefetch(<char *> shard.slots + (home(shard, h) << (2 if shard.wide else 1)))


cdef inline int64_t number_of(Table table, int64_t key) noexcept:
    """The number of a key's mask, 0 if it is absent; tries first what follows the last key found in the shard."""
    if key == 0:
        key = _ZERO
    cdef uint64_t h = mix(key)
    cdef Shard *shard = shard_of(table, h)
    cdef Py_ssize_t entry = shard.next
    if entry >= shard.used or shard.keys[entry] != key:
        entry = find(shard, key, h)
        if entry < 0:
            return 0
    shard.next = entry + 1
    return (<int32_t *> shard.values)[entry]


@cython.final
cdef class GroupMasks:
    """Block keys to masks of cache groups; each different mask is stored once, and the table has its number."""

    def __cinit__(self):
        self.table = Table(4)
        self.masks = [0]
        self.numbers = {0: 0}
        self.free = []
        self.unused = []
        self.uses_size = 8
        self.uses = <int64_t *> PyMem_Malloc(self.uses_size * sizeof(int64_t))
        if self.uses is NULL:
            raise MemoryError
        self.uses[0] = 1

    def __dealloc__(self):
        PyMem_Free(self.uses)

    def __len__(self):
        return self.table.live

    def get(self, int64_t key):
        """The mask of the groups that hold a key; 0 for none."""
        return self.masks[number_of(self.table, key)]

    def add(self, object bit, Table hash_table not None, block_hashes, block_keys):
        """Adds a group to the masks of keys, and to its hash table each block hash with its key.

        Skips blocks whose hash is in the table or whose key the group holds, and gives their positions.
        """
        cdef KeyVector hashes = as_vector(block_hashes), keys = as_vector(block_keys)
        if hashes.size != keys.size:
            raise ValueError(f"{hashes.size} hashes and {keys.size} keys")
        return self.add_blocks(bit, hash_table, hashes.at, keys.at, keys.size) or []

    cdef list add_blocks(
        self, object bit, Table hash_table, const int64_t *hashes, const int64_t *keys, Py_ssize_t size
    ):
        """As `add`; None if nothing was skipped."""
        cdef list skipped = None
        cdef Py_ssize_t position
        cdef int64_t block_hash, before = -1, after = -1
        cdef uint64_t h
        cdef Shard *own
        for position in range(min(_AHEAD, size)):
            expect(hash_table, hashes, position, size)
            expect(self.table, keys, position, size)
        for position in range(size):
            expect(hash_table, hashes, position + _AHEAD, size)
            expect(self.table, keys, position + _AHEAD, size)
            block_hash = hashes[position] if hashes[position] else _ZERO
            h = mix(block_hash)
            own = shard_of(hash_table, h)
            if find(own, block_hash, h) >= 0 or not self.put(bit, keys[position], &before, &after):
                if skipped is None:
                    skipped = []
                skipped.append(position)
            else:
                hash_table.add(own, block_hash, keys[position], h)
        if self.unused:
            self.sweep()
        return skipped

    def set(self, object bit, int64_t key):
        """Adds a group to the mask of one key."""
        cdef int64_t before = -1, after = -1
        self.put(bit, key, &before, &after)
        self.sweep()

    def set_all(self, object bit, asked):
        """Adds a group to the masks of keys; gives the number of those that it did not hold."""
        cdef KeyVector keys = as_vector(asked)
        cdef Py_ssize_t position, added = 0
        cdef int64_t before = -1, after = -1
        for position in range(min(_AHEAD, keys.size)):
            expect(self.table, keys.at, position, keys.size)
        for position in range(keys.size):
            expect(self.table, keys.at, position + _AHEAD, keys.size)
            added += self.put(bit, keys.at[position], &before, &after)
        self.sweep()
        return added

    cdef int64_t put(self, object bit, int64_t key, int64_t *before, int64_t *after) except -1:
        """Adds a group to the mask of a key; 0 if it holds it.

        `before` and `after` are the numbers of the masks of the last key without and with the group, -1 at first.
        """
        if key == 0:
            key = _ZERO
        cdef uint64_t h = mix(key)
        cdef Shard *shard = shard_of(self.table, h)
        cdef Py_ssize_t entry = find(shard, key, h)
        cdef int64_t number = (<int32_t *> shard.values)[entry] if entry >= 0 else 0
        if number != before[0]:
            if number == after[0] or self.masks[number] & bit:
                return 0
            before[0], after[0] = number, self.number(self.masks[number] | bit)
        if entry >= 0:
            (<int32_t *> shard.values)[entry] = <int32_t> after[0]
            self.release(number)
        else:
            self.table.add(shard, key, after[0], h)
        self.uses[after[0]] += 1
        return 1

    def holds(self, object bit, asked):
        """One byte for each key: whether the group holds it."""
        cdef KeyVector keys = as_vector(asked)
        cdef bytes found = PyBytes_FromStringAndSize(NULL, keys.size)
        cdef char *at = PyBytes_AS_STRING(found)
        cdef Py_ssize_t position
        cdef int64_t number, last = -1
        cdef bint held = False
        for position in range(keys.size):
            number = number_of(self.table, keys.at[position])
            if number != last:
                last = number
                held = bool(self.masks[number] & bit)
            at[position] = held
        return found

    def discard(self, object bit, int64_t key):
        """Removes a group from the mask of a key; False if it did not hold it."""
        cdef bint done = self.discard_one(bit, key)
        if self.unused:
            self.sweep()
        return done

    def discard_all(self, object bit, asked):
        """Removes a group from the masks of those keys that it holds."""
        cdef KeyVector keys = as_vector(asked)
        cdef Py_ssize_t position
        for position in range(min(_AHEAD, keys.size)):
            expect(self.table, keys.at, position, keys.size)
        for position in range(keys.size):
            expect(self.table, keys.at, position + _AHEAD, keys.size)
            self.discard_one(bit, keys.at[position])
        self.sweep()

    cdef bint discard_one(self, object bit, int64_t key) except -1:
        if key == 0:
            key = _ZERO
        cdef uint64_t h = mix(key)
        cdef Shard *shard = shard_of(self.table, h)
        cdef Py_ssize_t entry = find(shard, key, h)
        cdef int64_t number, after
        if entry < 0:
            return False
        number = (<int32_t *> shard.values)[entry]
        mask = self.masks[number]
        if not mask & bit:
            return False
        if mask == bit:
            drop(shard, entry, h)
            self.table.live -= 1
        else:
            after = self.number(mask ^ bit)
            (<int32_t *> shard.values)[entry] = <int32_t> after
            self.uses[after] += 1
        self.release(number)
        return True

    def prefix(self, asked, object wanted):
        """Which of the wanted groups hold all keys so far: (position, mask) at each change, until none does."""
        cdef KeyVector keys = as_vector(asked)
        cdef list found = []
        cdef Py_ssize_t position
        cdef int64_t number, last = -1
        for position in range(keys.size):
            number = number_of(self.table, keys.at[position])
            if number != last:
                last = number
                still = wanted & self.masks[number]
                if still != wanted:
                    found.append((position, still))
                    wanted = still
                    if not still:
                        break
        return found

    def spans(self, asked):
        """Which groups hold each key: (position, mask) at each change, beginning with position 0."""
        cdef KeyVector keys = as_vector(asked)
        cdef list found = []
        cdef Py_ssize_t position
        cdef int64_t number, last = -1
        for position in range(keys.size):
            number = number_of(self.table, keys.at[position])
            if number != last:
                last = number
                found.append((position, self.masks[number]))
        return found

    def items(self):
        """All keys with their masks, for tests."""
        return [(key, self.masks[number]) for key, number in self.table.items()]

    cdef int64_t number(self, object mask) except -1:
        """The number of a mask, valid until the next sweep even if nothing uses it."""
        cdef int64_t number
        cdef int64_t *larger
        known = self.numbers.get(mask)
        if known is not None:
            return known
        if self.free:
            number = self.free.pop()
            self.masks[number] = mask
        else:
            number = len(self.masks)
            if number == self.uses_size:
                larger = <int64_t *> PyMem_Realloc(self.uses, 2 * self.uses_size * sizeof(int64_t))
                if larger is NULL:
                    raise MemoryError
                self.uses = larger
                self.uses_size *= 2
            self.masks.append(mask)
            self.uses[number] = 0
        self.numbers[mask] = number
        self.unused.append(number)
        return number

    cdef int release(self, int64_t number) except -1:
        self.uses[number] -= 1
        if self.uses[number] == 0:
            self.unused.append(number)
        return 0

    cdef int sweep(self) except -1:
        """Frees the numbers of unused masks."""
        cdef int64_t number
        while self.unused:
            number = self.unused.pop()
            mask = self.masks[number]
            if self.uses[number] == 0 and self.numbers.get(mask) == number:
                del self.numbers[mask]
                self.masks[number] = 0
                self.free.append(number)
        return 0
