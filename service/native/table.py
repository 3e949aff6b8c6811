"""The hash tables of the index, compiled by mypyc; service/native/fallback.py has dicts instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast, final

from librt.strings import BytesWriter, read_i64_le, write_i64_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64

_LARGEST: Final[i64] = 12288
"""Maximum entries of a shard: rebuilding or splitting one of this size takes a few tenths of a millisecond."""
_DEEPEST: Final[i64] = 24
_ZERO: Final[i64] = 0x1E3779B97F4A7C15
"""Stored instead of key 0, which marks deleted entries."""


def as_key_vector(numbers: list[i64]) -> vec[i64]:
    """Block keys or block hashes in the form that the tables take."""
    return vec[i64](numbers)


def unpack_numbers(packed: bytes) -> vec[i64]:
    """Block keys or block hashes, 8 bytes little-endian each, in the form that the tables take."""
    count: i64 = len(packed) // 8
    numbers = vec[i64](capacity=count)
    at: i64 = 0
    while at < count * 8:
        numbers = append(numbers, read_i64_le(packed, at))
        at += 8
    return numbers


def _key_vector(numbers: object) -> vec[i64]:
    """A vec passed from Python: mypyc 2.4 leaks arguments that are declared as a vec."""
    return cast("vec[i64]", numbers)


def _mix(key: i64) -> i64:
    """A 64-bit hash whose every bit depends on all bits of the key."""
    h = key ^ ((key >> 32) & 0xFFFFFFFF)
    h *= 0x2545F4914F6CDD1D
    h ^= (h >> 29) & 0x7FFFFFFFF
    h *= 0x2545F4914F6CDD1D
    return h ^ ((h >> 32) & 0xFFFFFFFF)


def _capacity(live: i64) -> i64:
    """The capacity for `live` entries: about a quarter more, rounded up in steps of an eighth."""
    wanted: i64 = live * 5 // 4 + 1
    step: i64 = 1
    while step * 8 <= wanted:
        step *= 2
    return (wanted + step - 1) // step * step


@final
class _Shard:
    """Part of a table: entries in insertion order, found through open-addressed slots of entry numbers (-1: free)."""

    def __init__(self, capacity: i64, depth: i64) -> None:
        self.depth = depth
        """Bits of the hash that all keys of this shard share."""
        self.planned: i64 = 0
        """Entries to allocate when it grows for the first time."""
        self.reset(capacity)

    def reset(self, capacity: i64) -> None:
        """Drops all entries and allocates `capacity` entries."""
        self.capacity = capacity
        self.live: i64 = 0
        self.head: i64 = 0
        """All entries before this one are deleted."""
        self.last_found: i64 = -1
        """The entry of the last sequential lookup."""
        self.keys = vec[i64](capacity=capacity)
        self.values = vec[i64](capacity=capacity)
        left: i64 = capacity * 4 // 3 + 1
        slots = vec[i32](capacity=left)
        none: i32 = -1
        while left > 0:
            slots = append(slots, none)
            left -= 1
        self.slots = slots

    def find(self, key: i64, h: i64) -> i64:
        """The entry of a key; -1 if it is absent."""
        slots, keys = self.slots, self.keys
        count: i64 = len(slots)
        slot: i64 = ((h & 0xFFFFFFFF) * count) >> 32
        while True:
            entry = i64(slots[slot])
            if entry < 0 or keys[entry] == key:
                return entry
            slot += 1
            if slot == count:
                slot = 0

    def add(self, key: i64, value: i64, h: i64) -> None:
        """Appends an absent key; the shard must not be full."""
        slots = self.slots
        count: i64 = len(slots)
        slot: i64 = ((h & 0xFFFFFFFF) * count) >> 32
        while slots[slot] >= 0:
            slot += 1
            if slot == count:
                slot = 0
        slots[slot] = i32(len(self.keys))
        self.keys = append(self.keys, key)
        self.values = append(self.values, value)
        self.live += 1

    def drop(self, entry: i64, h: i64) -> None:
        """Deletes an entry; shifts the slots of its probe sequence back."""
        slots, keys = self.slots, self.keys
        count: i64 = len(slots)
        hole: i64 = ((h & 0xFFFFFFFF) * count) >> 32
        while i64(slots[hole]) != entry:
            hole += 1
            if hole == count:
                hole = 0
        slot = hole
        while True:
            slot += 1
            if slot == count:
                slot = 0
            moved = i64(slots[slot])
            if moved < 0:
                break
            from_home: i64 = slot - (((_mix(keys[moved]) & 0xFFFFFFFF) * count) >> 32)
            if from_home < 0:
                from_home += count
            from_hole: i64 = slot - hole
            if from_hole < 0:
                from_hole += count
            if from_home >= from_hole:
                slots[hole] = i32(moved)
                hole = slot
        slots[hole] = -1
        keys[entry] = 0
        self.live -= 1

    def full(self) -> bool:
        return len(self.keys) >= self.capacity

    def rebuild(self, capacity: i64) -> None:
        """Moves the live entries into `capacity` entries."""
        keys, values = self.keys, self.values
        self.reset(capacity)
        self.take(keys, values, 0, 0)

    def take(self, keys: vec[i64], values: vec[i64], bit: i64, wanted: i64) -> None:
        """Takes over the entries of another shard for whose hash `(h >> 40) & bit == wanted`."""
        own_keys, own_values, slots = self.keys, self.values, self.slots
        count: i64 = len(slots)
        entry: i64 = 0
        taken: i64 = 0
        while entry < len(keys):
            key = keys[entry]
            if key != 0:
                h = _mix(key)
                if ((h >> 40) & bit) == wanted:
                    slot: i64 = ((h & 0xFFFFFFFF) * count) >> 32
                    while slots[slot] >= 0:
                        slot += 1
                        if slot == count:
                            slot = 0
                    slots[slot] = i32(taken)
                    own_keys = append(own_keys, key)
                    own_values = append(own_values, values[entry])
                    taken += 1
            entry += 1
        self.keys, self.values = own_keys, own_values
        self.live = taken

    def packed(self) -> tuple[bytes, bytes]:
        """The keys and values of the live entries, 8 bytes little-endian each."""
        keys, values = self.keys, self.values
        packed_keys, packed_values = BytesWriter(), BytesWriter()
        entry: i64 = self.head
        while entry < len(keys):
            key = keys[entry]
            if key != 0:
                write_i64_le(packed_keys, 0 if key == _ZERO else key)
                write_i64_le(packed_values, values[entry])
            entry += 1
        return packed_keys.getvalue(), packed_values.getvalue()


@final
class Table:
    """A hash table of 64-bit keys and values, about 30 bytes per entry, by extendible hashing.

    It grows shard by shard, so no operation moves more than one shard's entries.
    """

    def __init__(self) -> None:
        self._depth: i64 = 0
        self._shards: list[_Shard] = [_Shard(_capacity(0), 0)]
        self._live: i64 = 0
        self._drained: i64 = 0

    def __len__(self) -> int:
        return self._live

    def __contains__(self, key: int) -> bool:
        return self.get(key) is not None

    def get(self, key: i64) -> i64 | None:
        """The value of a key; None if it is absent."""
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self.shard(h)
        entry = shard.find(key, h)
        return None if entry < 0 else shard.values[entry]

    def put(self, key: i64, value: i64) -> None:
        """Sets the value of a key."""
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self.shard(h)
        entry = shard.find(key, h)
        if entry >= 0:
            shard.values[entry] = value
        else:
            self.add(shard, key, value, h)

    def forget(self, key: i64) -> None:
        """Deletes a key if it is present."""
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self.shard(h)
        entry = shard.find(key, h)
        if entry >= 0:
            shard.drop(entry, h)
            self._live -= 1

    def shard(self, h: i64) -> _Shard:
        return self._shards[(h >> 40) & ((1 << self._depth) - 1)]

    def add(self, shard: _Shard, key: i64, value: i64, h: i64) -> None:
        """Adds an absent key to its shard, which may be split for it."""
        while shard.full():
            capacity = _capacity(shard.live)
            if shard.planned > capacity:
                shard.rebuild(shard.planned)
                shard.planned = 0
            elif capacity <= _LARGEST or shard.depth >= _DEEPEST:
                shard.rebuild(capacity)
            else:
                self._split(shard, (h >> 40) & ((1 << shard.depth) - 1))
                shard = self.shard(h)
        shard.add(key, value, h)
        self._live += 1

    def drop(self, shard: _Shard, entry: i64, h: i64) -> None:
        shard.drop(entry, h)
        self._live -= 1

    def _split(self, shard: _Shard, first: i64) -> None:
        """Replaces a shard by two; `first` is its first index in the directory."""
        if shard.depth == self._depth:
            self._shards = self._shards + self._shards
            self._depth += 1
        bit: i64 = 1 << shard.depth
        above: i64 = 0
        for key in shard.keys:
            if key != 0 and (_mix(key) >> 40) & bit:
                above += 1
        lower, upper = _Shard(_capacity(shard.live - above), shard.depth + 1), _Shard(_capacity(above), shard.depth + 1)
        lower.take(shard.keys, shard.values, bit, 0)
        upper.take(shard.keys, shard.values, bit, bit)
        index = first
        while index < len(self._shards):
            self._shards[index] = upper if index & bit else lower
            index += bit

    def oldest(self, most: i64) -> list[int]:
        """Up to `most` keys: of each shard those inserted first."""
        found: list[int] = []
        size: i64 = len(self._shards)
        each: i64 = most // size + 1
        index: i64 = 0
        while index < size and i64(len(found)) < most:
            shard = self._shards[index]
            if index == index & ((1 << shard.depth) - 1):  # its first index in the directory
                entry = shard.head
                left = each
                while entry < len(shard.keys) and left > 0 and i64(len(found)) < most:
                    key = shard.keys[entry]
                    if key != 0:
                        found.append(key)
                        left -= 1
                    elif entry == shard.head:
                        shard.head = entry + 1
                    entry += 1
            index += 1
        return found

    def take_oldest(self, most: i64) -> vec[i64]:
        """Deletes the oldest entries and gives their values."""
        values = vec[i64](capacity=most)
        for key in self.oldest(most):
            h = _mix(key)
            shard = self.shard(h)
            entry = shard.find(key, h)
            values = append(values, shard.values[entry])
            self.drop(shard, entry, h)
        return values

    def drain(self, most: i64) -> vec[i64]:
        """Deletes up to `most` entries and gives their values; from then on the table can only be drained further."""
        values = vec[i64](capacity=most)
        while self._live > 0 and i64(len(values)) < most:
            shard = self._shards[self._drained]
            if self._drained != self._drained & ((1 << shard.depth) - 1) or shard.live == 0:
                self._shards[self._drained] = _Shard(_capacity(0), 0)
                self._drained += 1
                continue
            entry = shard.head
            while entry < len(shard.keys) and i64(len(values)) < most:
                if shard.keys[entry] != 0:
                    values = append(values, shard.values[entry])
                    shard.live -= 1
                    self._live -= 1
                entry += 1
            shard.head = entry
        return values

    def shards(self) -> list[tuple[int, int]]:
        """The depth and the number of entries of the shard at each place of the directory."""
        return [(shard.depth, shard.live) for shard in self._shards]

    def shape(self, shards: list[tuple[int, int]]) -> None:
        """Gives an empty table the shards of another one, as `shards` says, so that its oldest entries are the same.

        Ignores what is no directory. The shards get their memory with their first entries.
        """
        depth: i64 = 0
        while (1 << depth) < len(shards):
            depth += 1
        if self._live or depth > _DEEPEST or (1 << depth) != len(shards):
            return
        made: list[_Shard] = []
        for index, (shared, live) in enumerate(shards):
            if not 0 <= shared <= depth or shards[index & ((1 << shared) - 1)][0] != shared:
                return
            first = index & ((1 << shared) - 1)
            if first < index:
                made.append(made[first])
            else:
                shard = _Shard(_capacity(0), shared)
                shard.planned = min(_capacity(live), max(_LARGEST, live))
                made.append(shard)
        self._shards, self._depth = made, depth

    def slices(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and their values, 8 bytes little-endian each; of each shard in the order of insertion."""
        index: i64 = 0
        while index < len(self._shards):
            shard = self._shards[index]
            if index == index & ((1 << shard.depth) - 1) and shard.live:
                yield shard.packed()
            index += 1

    def put_all(self, asked: object, values: object) -> None:
        """Sets the values of several keys, in this order; both are key vectors."""
        keys, new = _key_vector(asked), _key_vector(values)
        position: i64 = 0
        while position < len(keys):
            self.put(keys[position], new[position])
            position += 1

    def items(self) -> list[tuple[int, int]]:
        """All keys with their values, for tests."""
        found: list[tuple[int, int]] = []
        index: i64 = 0
        while index < len(self._shards):
            shard = self._shards[index]
            if index == index & ((1 << shard.depth) - 1):
                entry: i64 = 0
                while entry < len(shard.keys):
                    if shard.keys[entry] != 0:
                        found.append((shard.keys[entry], shard.values[entry]))
                    entry += 1
            index += 1
        return found


@final
class GroupMasks:
    """Block keys to masks of cache groups; each different mask is stored once, and the table has its number."""

    def __init__(self) -> None:
        self._table = Table()
        self._masks: list[int] = [0]
        self._numbers: dict[int, int] = {0: 0}
        self._uses: vec[i64] = vec[i64]([1])
        self._free: list[int] = []
        self._unused: list[int] = []

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: i64) -> int:
        """The mask of the groups that hold a key; 0 for none."""
        return self._masks[self._number_of(key)]

    def add(self, bit: int, hash_table: Table, block_hashes: object, block_keys: object) -> list[int]:
        """Adds a group to the masks of keys, and to its hash table each block hash with its key.

        Skips blocks whose hash is in the table or whose key the group holds, and gives their positions.
        """
        hashes, keys = _key_vector(block_hashes), _key_vector(block_keys)
        skipped: list[int] = []
        table = self._table
        before: i64 = -1
        after: i64 = -1
        position: i64 = 0
        while position < len(keys):
            block_hash, key = hashes[position], keys[position]
            if block_hash == 0:
                block_hash = _ZERO
            if key == 0:
                key = _ZERO
            hash_h = _mix(block_hash)
            own = hash_table.shard(hash_h)
            if own.find(block_hash, hash_h) >= 0:
                skipped.append(position)
                position += 1
                continue
            h = _mix(key)
            shard = table.shard(h)
            entry = shard.find(key, h)
            number: i64 = shard.values[entry] if entry >= 0 else 0
            if number != before or before < 0:
                if number == after or self._masks[number] & bit:
                    skipped.append(position)
                    position += 1
                    continue
                before, after = number, self._number(self._masks[number] | bit)
            if entry >= 0:
                shard.values[entry] = after
                self._release(before)
            else:
                table.add(shard, key, after, h)
            self._uses[after] += 1
            hash_table.add(own, block_hash, keys[position], hash_h)
            position += 1
        self._sweep()
        return skipped

    def set(self, bit: int, key: i64) -> None:
        """Adds a group to the mask of one key."""
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self._table.shard(h)
        entry = shard.find(key, h)
        before: i64 = shard.values[entry] if entry >= 0 else 0
        after = self._number(self._masks[before] | bit)
        self._uses[after] += 1
        if entry >= 0:
            shard.values[entry] = after
            self._release(before)
        else:
            self._table.add(shard, key, after, h)
        self._sweep()

    def set_all(self, bit: int, asked: object) -> int:
        """Adds a group to the masks of keys; gives the number of those that it did not hold."""
        keys = _key_vector(asked)
        table = self._table
        before: i64 = -1
        after: i64 = -1
        added: i64 = 0
        position: i64 = 0
        while position < len(keys):
            key = keys[position]
            position += 1
            if key == 0:
                key = _ZERO
            h = _mix(key)
            shard = table.shard(h)
            entry = shard.find(key, h)
            number: i64 = shard.values[entry] if entry >= 0 else 0
            if number != before or before < 0:
                if number == after or self._masks[number] & bit:
                    continue
                before, after = number, self._number(self._masks[number] | bit)
            if entry >= 0:
                shard.values[entry] = after
                self._release(before)
            else:
                table.add(shard, key, after, h)
            self._uses[after] += 1
            added += 1
        self._sweep()
        return added

    def holds(self, bit: int, asked: object) -> bytes:
        """One byte for each key: whether the group holds it."""
        found = BytesWriter()
        last: i64 = -1
        held = 0
        for key in _key_vector(asked):
            number = self._number_of(key)
            if number != last:
                last = number
                held = 1 if self._masks[number] & bit else 0
            found.append(held)
        return found.getvalue()

    def discard(self, bit: int, key: i64) -> bool:
        """Removes a group from the mask of a key; False if it did not hold it."""
        done = self._discard(bit, key)
        self._sweep()
        return done

    def discard_all(self, bit: int, keys: object) -> None:
        """Removes a group from the masks of those keys that it holds."""
        for key in _key_vector(keys):
            self._discard(bit, key)
        self._sweep()

    def _discard(self, bit: int, key: i64) -> bool:
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self._table.shard(h)
        entry = shard.find(key, h)
        if entry < 0:
            return False
        number = shard.values[entry]
        mask = self._masks[number]
        if not mask & bit:
            return False
        if mask == bit:
            self._table.drop(shard, entry, h)
        else:
            after = self._number(mask ^ bit)
            shard.values[entry] = after
            self._uses[after] += 1
        self._release(number)
        return True

    def prefix(self, asked: object, wanted: int) -> list[tuple[int, int]]:
        """Which of the wanted groups hold all keys so far: (position, mask) at each change, until none does."""
        keys = _key_vector(asked)
        found: list[tuple[int, int]] = []
        last: i64 = -1
        position: i64 = 0
        while position < len(keys):
            number = self._number_of(keys[position])
            if number != last:
                last = number
                still = wanted & self._masks[number]
                if still != wanted:
                    found.append((position, still))
                    wanted = still
                    if still == 0:
                        break
            position += 1
        return found

    def spans(self, asked: object) -> list[tuple[int, int]]:
        """Which groups hold each key: (position, mask) at each change, beginning with position 0."""
        keys = _key_vector(asked)
        found: list[tuple[int, int]] = []
        last: i64 = -1
        position: i64 = 0
        while position < len(keys):
            number = self._number_of(keys[position])
            if number != last:
                last = number
                found.append((position, self._masks[number]))
            position += 1
        return found

    def _number_of(self, key: i64) -> i64:
        """The number of a key's mask.

        Optimised for sequential access: tries the next entry of the shard first.
        """
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self._table.shard(h)
        entries = shard.keys
        entry = shard.last_found + 1
        if entry >= len(entries) or entries[entry] != key:
            entry = shard.find(key, h)
            if entry < 0:
                return 0
        shard.last_found = entry
        return shard.values[entry]

    def items(self) -> list[tuple[int, int]]:
        """All keys with their masks, for tests."""
        return [(key, self._masks[number]) for key, number in self._table.items()]

    def _number(self, mask: int) -> i64:
        """The number of a mask, valid until the next sweep even if nothing uses it."""
        known = self._numbers.get(mask)
        if known is not None:
            return known
        if self._free:
            number = self._free.pop()
            self._masks[number] = mask
        else:
            number = len(self._masks)
            self._masks.append(mask)
            self._uses = append(self._uses, 0)
        self._numbers[mask] = number
        self._unused.append(number)
        return number

    def _release(self, number: i64) -> None:
        self._uses[number] -= 1
        if self._uses[number] == 0:
            self._unused.append(number)

    def _sweep(self) -> None:
        """Frees the numbers of unused masks."""
        while self._unused:
            number = self._unused.pop()
            mask = self._masks[number]
            if self._uses[number] == 0 and self._numbers.get(mask) == number:
                del self._numbers[mask]
                self._masks[number] = 0
                self._free.append(number)
