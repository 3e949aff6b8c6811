"""The tables behind the index, compiled by mypyc; service/native/fallback.py has dicts instead."""

from __future__ import annotations

from typing import Final, cast, final

from librt.vecs import append, vec
from mypy_extensions import i32, i64

_LARGEST: Final[i64] = 12288
"""Entries of a shard: rebuilding or splitting one of this size takes a few tenths of a millisecond."""
_DEEPEST: Final[i64] = 24
_ZERO: Final[i64] = 0x1E3779B97F4A7C15
"""Stands for a name of 0, which marks entries that are gone."""


def as_key_vector(numbers: list[i64]) -> vec[i64]:
    """Keys, or engines' names for blocks, as the rest of this takes them."""
    return vec[i64](numbers)


def _of_run(numbers: object) -> vec[i64]:
    """A run that came from Python: mypyc 2.4 never lets go of a vec that is taken as an argument of that type."""
    return cast("vec[i64]", numbers)


def _mix(name: i64) -> i64:
    """Spreads what tells names apart over all bits."""
    h = name ^ ((name >> 32) & 0xFFFFFFFF)
    h *= 0x2545F4914F6CDD1D
    h ^= (h >> 29) & 0x7FFFFFFFF
    h *= 0x2545F4914F6CDD1D
    return h ^ ((h >> 32) & 0xFFFFFFFF)


def _room(live: i64) -> i64:
    """How many entries a shard is made for that has so many: a quarter more or so, in steps of an eighth."""
    wanted: i64 = live * 5 // 4 + 1
    step: i64 = 1
    while step * 8 <= wanted:
        step *= 2
    return (wanted + step - 1) // step * step


@final
class _Shard:
    """Part of a table: entries in the order they came, found through slots that hold their numbers (-1: none)."""

    def __init__(self, room: i64, depth: i64) -> None:
        self.depth = depth
        """How many bits of a name's hash all names in here share."""
        self.shape(room)

    def shape(self, room: i64) -> None:
        """Begins anew, with no entries and room for so many."""
        self.room = room
        self.live: i64 = 0
        self.head: i64 = 0
        """No entry before this one is left."""
        self.last: i64 = -1
        """The entry that was found last where keys were looked up in a row."""
        self.names = vec[i64](capacity=room)
        self.values = vec[i64](capacity=room)
        left: i64 = room * 4 // 3 + 1
        slots = vec[i32](capacity=left)
        none: i32 = -1
        while left > 0:
            slots = append(slots, none)
            left -= 1
        self.slots = slots

    def find(self, name: i64, h: i64) -> i64:
        """The entry of a name, -1 without one."""
        slots, names = self.slots, self.names
        count: i64 = len(slots)
        slot: i64 = ((h & 0xFFFFFFFF) * count) >> 32
        while True:
            entry = i64(slots[slot])
            if entry < 0 or names[entry] == name:
                return entry
            slot += 1
            if slot == count:
                slot = 0

    def add(self, name: i64, value: i64, h: i64) -> None:
        """Adds an entry for a name that has none, where there is room for one."""
        slots = self.slots
        count: i64 = len(slots)
        slot: i64 = ((h & 0xFFFFFFFF) * count) >> 32
        while slots[slot] >= 0:
            slot += 1
            if slot == count:
                slot = 0
        slots[slot] = i32(len(self.names))
        self.names = append(self.names, name)
        self.values = append(self.values, value)
        self.live += 1

    def drop(self, entry: i64, h: i64) -> None:
        """Takes an entry away, and moves those up that were found by way of its slot."""
        slots, names = self.slots, self.names
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
            from_home: i64 = slot - (((_mix(names[moved]) & 0xFFFFFFFF) * count) >> 32)
            if from_home < 0:
                from_home += count
            from_hole: i64 = slot - hole
            if from_hole < 0:
                from_hole += count
            if from_home >= from_hole:
                slots[hole] = i32(moved)
                hole = slot
        slots[hole] = -1
        names[entry] = 0
        self.live -= 1

    def full(self) -> bool:
        return len(self.names) >= self.room

    def rebuild(self, room: i64) -> None:
        """Gives what is left room for so many; what is gone takes none any more."""
        names, values = self.names, self.values
        self.shape(room)
        self.take(names, values, 0, 0)

    def take(self, names: vec[i64], values: vec[i64], bit: i64, wanted: i64) -> None:
        """Begins with those of another shard's entries whose hash has, of the bits in `bit`, the wanted ones."""
        own_names, own_values, slots = self.names, self.values, self.slots
        count: i64 = len(slots)
        entry: i64 = 0
        taken: i64 = 0
        while entry < len(names):
            name = names[entry]
            if name != 0:
                h = _mix(name)
                if ((h >> 40) & bit) == wanted:
                    slot: i64 = ((h & 0xFFFFFFFF) * count) >> 32
                    while slots[slot] >= 0:
                        slot += 1
                        if slot == count:
                            slot = 0
                    slots[slot] = i32(taken)
                    own_names = append(own_names, name)
                    own_values = append(own_values, values[entry])
                    taken += 1
            entry += 1
        self.names, self.values = own_names, own_values
        self.live = taken


@final
class Table:
    """64-bit names to 64-bit values, about 30 bytes each, in shards: no operation moves more than a shard's entries."""

    def __init__(self) -> None:
        self._depth: i64 = 0
        self._shards: list[_Shard] = [_Shard(_room(0), 0)]
        self._live: i64 = 0
        self._drained: i64 = 0

    def __len__(self) -> int:
        return self._live

    def __contains__(self, name: int) -> bool:
        return self.get(name) is not None

    def get(self, name: i64) -> i64 | None:
        """The value of a name, None without one."""
        if name == 0:
            name = _ZERO
        h = _mix(name)
        shard = self.shard(h)
        entry = shard.find(name, h)
        return None if entry < 0 else shard.values[entry]

    def put(self, name: i64, value: i64) -> None:
        """Gives a name a value."""
        if name == 0:
            name = _ZERO
        h = _mix(name)
        shard = self.shard(h)
        entry = shard.find(name, h)
        if entry >= 0:
            shard.values[entry] = value
        else:
            self.add(shard, name, value, h)

    def forget(self, name: i64) -> None:
        """Takes a name out, if it is there."""
        if name == 0:
            name = _ZERO
        h = _mix(name)
        shard = self.shard(h)
        entry = shard.find(name, h)
        if entry >= 0:
            shard.drop(entry, h)
            self._live -= 1

    def shard(self, h: i64) -> _Shard:
        return self._shards[(h >> 40) & ((1 << self._depth) - 1)]

    def add(self, shard: _Shard, name: i64, value: i64, h: i64) -> None:
        """Adds a name that is not there to the shard that is its own."""
        while shard.full():
            room = _room(shard.live)
            if room <= _LARGEST or shard.depth >= _DEEPEST:
                shard.rebuild(room)
            else:
                self._split(shard, (h >> 40) & ((1 << shard.depth) - 1))
                shard = self.shard(h)
        shard.add(name, value, h)
        self._live += 1

    def drop(self, shard: _Shard, entry: i64, h: i64) -> None:
        shard.drop(entry, h)
        self._live -= 1

    def _split(self, shard: _Shard, first: i64) -> None:
        """Puts two shards in the place of one; `first` is the first place that it has."""
        if shard.depth == self._depth:
            self._shards = self._shards + self._shards
            self._depth += 1
        bit: i64 = 1 << shard.depth
        above: i64 = 0
        for name in shard.names:
            if name != 0 and (_mix(name) >> 40) & bit:
                above += 1
        lower, upper = _Shard(_room(shard.live - above), shard.depth + 1), _Shard(_room(above), shard.depth + 1)
        lower.take(shard.names, shard.values, bit, 0)
        upper.take(shard.names, shard.values, bit, bit)
        place = first
        while place < len(self._shards):
            self._shards[place] = upper if place & bit else lower
            place += bit

    def oldest(self, most: i64) -> list[int]:
        """Up to so many names, of each shard those that came first."""
        found: list[int] = []
        places: i64 = len(self._shards)
        each: i64 = most // places + 1
        place: i64 = 0
        while place < places and i64(len(found)) < most:
            shard = self._shards[place]
            if place == place & ((1 << shard.depth) - 1):  # the first of its places
                entry = shard.head
                left = each
                while entry < len(shard.names) and left > 0 and i64(len(found)) < most:
                    name = shard.names[entry]
                    if name != 0:
                        found.append(name)
                        left -= 1
                    elif entry == shard.head:
                        shard.head = entry + 1
                    entry += 1
            place += 1
        return found

    def take_oldest(self, most: i64) -> vec[i64]:
        """Takes the entries of those names out and gives their values."""
        values = vec[i64](capacity=most)
        for name in self.oldest(most):
            h = _mix(name)
            shard = self.shard(h)
            entry = shard.find(name, h)
            values = append(values, shard.values[entry])
            self.drop(shard, entry, h)
        return values

    def drain(self, most: i64) -> vec[i64]:
        """Takes up to so many entries out and gives their values; the table is good for nothing else from then on."""
        values = vec[i64](capacity=most)
        while self._live > 0 and i64(len(values)) < most:
            shard = self._shards[self._drained]
            if self._drained != self._drained & ((1 << shard.depth) - 1) or shard.live == 0:
                self._shards[self._drained] = _Shard(_room(0), 0)
                self._drained += 1
                continue
            entry = shard.head
            while entry < len(shard.names) and i64(len(values)) < most:
                if shard.names[entry] != 0:
                    values = append(values, shard.values[entry])
                    shard.live -= 1
                    self._live -= 1
                entry += 1
            shard.head = entry
        return values

    def items(self) -> list[tuple[int, int]]:
        """All names with their values, for tests."""
        found: list[tuple[int, int]] = []
        place: i64 = 0
        while place < len(self._shards):
            shard = self._shards[place]
            if place == place & ((1 << shard.depth) - 1):
                entry: i64 = 0
                while entry < len(shard.names):
                    if shard.names[entry] != 0:
                        found.append((shard.names[entry], shard.values[entry]))
                    entry += 1
            place += 1
        return found


@final
class GroupMasks:
    """Block keys to who holds them: masks of holders, each kept once and known in the table by a number."""

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
        """The mask of a key's holders, 0 when nobody has it."""
        return self._masks[self._number_of(key)]

    def add(self, bit: int, names: Table, named: object, held: object) -> list[int]:
        """Adds a holder to the keys `held` and gives it the names `named` for them, runs both.

        Leaves out, and gives the positions of, those that it has a name for or holds already.
        """
        hashes, keys = _of_run(named), _of_run(held)
        left_out: list[int] = []
        table = self._table
        before: i64 = -1
        after: i64 = -1
        position: i64 = 0
        while position < len(keys):
            name, key = hashes[position], keys[position]
            if name == 0:
                name = _ZERO
            if key == 0:
                key = _ZERO
            name_h = _mix(name)
            own = names.shard(name_h)
            if own.find(name, name_h) >= 0:
                left_out.append(position)
                position += 1
                continue
            h = _mix(key)
            shard = table.shard(h)
            entry = shard.find(key, h)
            number: i64 = shard.values[entry] if entry >= 0 else 0
            if number != before or before < 0:
                if number == after or self._masks[number] & bit:
                    left_out.append(position)
                    position += 1
                    continue
                before, after = number, self._number(self._masks[number] | bit)
            if entry >= 0:
                shard.values[entry] = after
                self._release(before)
            else:
                table.add(shard, key, after, h)
            self._uses[after] += 1
            names.add(own, name, keys[position], name_h)
            position += 1
        self._sweep()
        return left_out

    def set(self, bit: int, key: i64) -> None:
        """Adds a holder to one key."""
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

    def discard(self, bit: int, key: i64) -> bool:
        """Takes a holder from a key; False when it did not hold it."""
        done = self._discard(bit, key)
        self._sweep()
        return done

    def discard_all(self, bit: int, keys: object) -> None:
        """Takes a holder from each of the keys of a run that it holds."""
        for key in _of_run(keys):
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
        """Who of the wanted holds each key so far: (position, mask) wherever that changes, up to where none does."""
        keys = _of_run(asked)
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
        """Who holds each key: (position, mask) wherever that changes, from (0, …) on."""
        keys = _of_run(asked)
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
        """The number of the mask of a key's holders.

        Keys that came one after another are looked up so, too: the next one in a shard is most often the next entry.
        """
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self._table.shard(h)
        names = shard.names
        entry = shard.last + 1
        if entry >= len(names) or names[entry] != key:
            entry = shard.find(key, h)
            if entry < 0:
                return 0
        shard.last = entry
        return shard.values[entry]

    def items(self) -> list[tuple[int, int]]:
        """All keys with their masks, for tests."""
        return [(key, self._masks[number]) for key, number in self._table.items()]

    def _number(self, mask: int) -> i64:
        """The number of a mask; it stays the mask's until the next sweep even when nothing uses it."""
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
        """Frees the numbers of masks that nothing uses."""
        while self._unused:
            number = self._unused.pop()
            mask = self._masks[number]
            if self._uses[number] == 0 and self._numbers.get(mask) == number:
                del self._numbers[mask]
                self._masks[number] = 0
                self._free.append(number)
