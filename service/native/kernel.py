"""Block keys, the tables behind the index, and the reading of numbers, in the Python that mypyc makes fast C of.

It is only ever used compiled. service/index/plain.py does the same with dicts and xxhash; the tests hold both to the
same. 64-bit arithmetic wraps around. Constants above 62 bits would be made anew at each use, so long ones are bound
to locals.
"""

from __future__ import annotations

from typing import Final, final

from librt.strings import read_i16_be, read_i32_be, read_i32_le, read_i64_be, read_i64_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64

_LARGEST: Final[i64] = 12288
"""Entries of a shard: rebuilding or splitting one of this size takes a few tenths of a millisecond."""
_DEEPEST: Final[i64] = 24
_ZERO: Final[i64] = 0x1E3779B97F4A7C15
"""Stands for a name of 0, which marks entries that are gone."""


def block_keys(parent: i64, tokens: bytes, block_bytes: i64) -> vec[i64]:
    """XXH64 of each whole block, its seed the key before it, cut to 60 bits: service.index.plain says the same.

    Source: the specification of XXH64 in xxHash's doc/xxhash_spec.md.
    """
    prime1: i64 = -7046029288634856825
    prime2: i64 = -4417276706812531889
    prime3: i64 = 1609587929392839161
    prime4: i64 = -8796714831421723037
    prime5: i64 = 2870177450012600261
    blocks: i64 = len(tokens) // block_bytes
    keys = vec[i64](capacity=blocks)
    key = parent
    at: i64 = 0
    h: i64
    k: i64
    while blocks > 0:
        blocks -= 1
        end: i64 = at + block_bytes
        if block_bytes >= 32:
            lane1: i64 = key + prime1 + prime2
            lane2: i64 = key + prime2
            lane3: i64 = key
            lane4: i64 = key - prime1
            while at + 32 <= end:
                lane1 += read_i64_le(tokens, at) * prime2
                lane1 = ((lane1 << 31) | ((lane1 >> 33) & 0x7FFFFFFF)) * prime1
                lane2 += read_i64_le(tokens, at + 8) * prime2
                lane2 = ((lane2 << 31) | ((lane2 >> 33) & 0x7FFFFFFF)) * prime1
                lane3 += read_i64_le(tokens, at + 16) * prime2
                lane3 = ((lane3 << 31) | ((lane3 >> 33) & 0x7FFFFFFF)) * prime1
                lane4 += read_i64_le(tokens, at + 24) * prime2
                lane4 = ((lane4 << 31) | ((lane4 >> 33) & 0x7FFFFFFF)) * prime1
                at += 32
            h = ((lane1 << 1) | ((lane1 >> 63) & 1)) + ((lane2 << 7) | ((lane2 >> 57) & 0x7F))
            h += ((lane3 << 12) | ((lane3 >> 52) & 0xFFF)) + ((lane4 << 18) | ((lane4 >> 46) & 0x3FFFF))
            k = lane1 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
            k = lane2 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
            k = lane3 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
            k = lane4 * prime2
            h = (h ^ (((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1)) * prime1 + prime4
        else:
            h = key + prime5
        h += block_bytes
        while at + 8 <= end:
            k = read_i64_le(tokens, at) * prime2
            h ^= ((k << 31) | ((k >> 33) & 0x7FFFFFFF)) * prime1
            h = ((h << 27) | ((h >> 37) & 0x7FFFFFF)) * prime1 + prime4
            at += 8
        if at + 4 <= end:
            h ^= (i64(read_i32_le(tokens, at)) & 0xFFFFFFFF) * prime1
            h = ((h << 23) | ((h >> 41) & 0x7FFFFF)) * prime2 + prime3
            at += 4
        h ^= (h >> 33) & 0x7FFFFFFF
        h *= prime2
        h ^= (h >> 29) & 0x7FFFFFFFF
        h *= prime3
        h ^= (h >> 32) & 0xFFFFFFFF
        key = h & 0xFFFFFFFFFFFFFFF
        keys = append(keys, key)
    return keys


def run(numbers: list[i64]) -> vec[i64]:
    """Keys, or engines' names for blocks, as the rest of this takes them."""
    return vec[i64](numbers)


def unpack_hashes(packed: bytes) -> vec[i64] | None:
    """The numbers of a msgpack array, as 64 bits with a sign; None when it holds anything else."""
    size: i64 = len(packed)
    kind: i64 = packed[0]
    count: i64
    at: i64
    if kind & 0xF0 == 0x90:
        count, at = kind & 0xF, 1
    elif kind == 0xDC:
        count, at = i64(read_i16_be(packed, 1)) & 0xFFFF, 3
    elif kind == 0xDD:
        count, at = i64(read_i32_be(packed, 1)) & 0xFFFFFFFF, 5
    else:
        return None
    numbers = vec[i64](capacity=count)
    while count > 0:
        count -= 1
        if at >= size:
            return None
        kind = packed[at]
        at += 1
        if kind < 0x80:
            numbers = append(numbers, kind)
        elif kind == 0xCD:
            numbers = append(numbers, i64(read_i16_be(packed, at)) & 0xFFFF)
            at += 2
        elif kind == 0xCE:
            numbers = append(numbers, i64(read_i32_be(packed, at)) & 0xFFFFFFFF)
            at += 4
        elif kind == 0xCF or kind == 0xD3:
            numbers = append(numbers, read_i64_be(packed, at))
            at += 8
        elif kind == 0xCC:
            numbers = append(numbers, i64(packed[at]))
            at += 1
        elif kind >= 0xE0:
            numbers = append(numbers, kind - 0x100)
        elif kind == 0xD0:
            number: i64 = packed[at]
            numbers = append(numbers, number - 0x100 if number >= 0x80 else number)
            at += 1
        elif kind == 0xD1:
            numbers = append(numbers, i64(read_i16_be(packed, at)))
            at += 2
        elif kind == 0xD2:
            numbers = append(numbers, i64(read_i32_be(packed, at)))
            at += 4
        else:
            return None
    return numbers


def unpack_tokens(packed: bytes) -> vec[i32] | None:
    """The numbers of a msgpack array as unsigned 32-bit integers; None when it holds anything else."""
    size: i64 = len(packed)
    kind: i64 = packed[0]
    count: i64
    at: i64
    if kind & 0xF0 == 0x90:
        count, at = kind & 0xF, 1
    elif kind == 0xDC:
        count, at = i64(read_i16_be(packed, 1)) & 0xFFFF, 3
    elif kind == 0xDD:
        count, at = i64(read_i32_be(packed, 1)) & 0xFFFFFFFF, 5
    else:
        return None
    tokens = vec[i32](capacity=count)
    while count > 0:
        count -= 1
        if at >= size:
            return None
        kind = packed[at]
        at += 1
        if kind == 0xCD:
            tokens = append(tokens, i32(read_i16_be(packed, at)) & 0xFFFF)
            at += 2
        elif kind < 0x80:
            tokens = append(tokens, i32(kind))
        elif kind == 0xCE:
            tokens = append(tokens, read_i32_be(packed, at))
            at += 4
        elif kind == 0xCC:
            tokens = append(tokens, i32(packed[at]))
            at += 1
        else:
            return None
    return tokens


def prompt_ids(body: bytes) -> tuple[vec[i32], int, int] | None:
    """The token ids under "prompt" of a JSON object, as unsigned 32-bit integers, and from where to where they stand.

    None when they are not plainly there: another key by another spelling, numbers of any other form, two prompts.
    """
    start = _value_of_prompt(body)
    if start < 0:
        return None
    high_bits: i64 = -9187201950435737472
    to_high_bit: i64 = 0x7676767676767676
    zeros: i64 = 0x3030303030303030
    size: i64 = len(body)
    ids = vec[i32](capacity=(size - start) // 4)
    at: i64 = start + 1
    while True:
        number: i64
        ends: i64 = 0
        if at < size and body[at] == 32:
            at += 1
        if at < size and body[at] <= 32:
            at = _skip_space(body, at)
        if at + 8 <= size:
            # Eight characters at once. A byte that is no digit is above 9 without the bits of "0": in `ends`, the
            # lowest bit that is set belongs to the first of those.
            word = read_i64_le(body, at) ^ zeros
            ends = ((word + to_high_bit) | word) & high_bits
            ends &= -ends
        if ends > 0x80:
            digits: i64 = 5
            while digits < 7 and ends >> (8 * digits + 7) != 1 and ends >> (8 * digits + 7) != 0:
                digits += 1
            while ends >> (8 * digits + 7) == 0:
                digits -= 1
            if digits > 1 and word & 0xFF == 0:
                return None
            word = (word & ((ends >> 7) - 1)) << (64 - 8 * digits)
            word = word * 10 + ((word >> 8) & 0xFFFFFFFFFFFFFF)
            word = (word & 0xFF000000FF) * 0xF424000000064 + ((word >> 16) & 0xFF000000FF) * 0x271000000001
            number = (word >> 32) & 0xFFFFFFFF
            at += digits
        else:
            first = at
            number = 0
            while at < size and 48 <= body[at] <= 57 and at - first < 11:
                number = number * 10 + i64(body[at]) - 48
                at += 1
            if at == first or number > 0xFFFFFFFF or (at - first > 1 and body[first] == 48):
                return None
        ids = append(ids, i32(number))
        if at < size and body[at] <= 32:
            at = _skip_space(body, at)
        if at >= size:
            return None
        mark: i64 = body[at]
        at += 1
        if mark == 93:
            break
        if mark != 44:
            return None
    if body.find(b'"prompt"', at) >= 0 or body.find(b"\\", at) >= 0:
        return None
    return ids, start, at


def _value_of_prompt(body: bytes) -> i64:
    """Where the array under the key "prompt" of a JSON object begins; -1 when it is not plainly there."""
    size: i64 = len(body)
    at = _skip_space(body, 0)
    if at >= size or body[at] != 123:
        return -1
    while True:
        at = _skip_space(body, at + 1)
        end = _end_of_text(body, at)
        if end < 0 or body.find(b"\\", at, end) >= 0:
            return -1
        is_prompt = end - at == 8 and body[at:end] == b'"prompt"'
        at = _skip_space(body, end)
        if at >= size or body[at] != 58:
            return -1
        at = _skip_space(body, at + 1)
        if at >= size:
            return -1
        if is_prompt:
            return at if body[at] == 91 else -1
        depth: i64 = 0
        while True:
            if at >= size:
                return -1
            mark: i64 = body[at]
            if mark == 34:
                at = _end_of_text(body, at)
                if at < 0:
                    return -1
                continue
            if mark == 123 or mark == 91:
                depth += 1
            elif mark == 125 or mark == 93:
                depth -= 1
                if depth < 0:
                    return -1
            elif mark == 44 and depth == 0:
                break
            at += 1


def _end_of_text(body: bytes, at: i64) -> i64:
    """Where the JSON string that begins there ends; -1 when none does."""
    size: i64 = len(body)
    if at >= size or body[at] != 34:
        return -1
    at += 1
    while at < size:
        mark: i64 = body[at]
        if mark == 34:
            return at + 1
        at += 2 if mark == 92 else 1
    return -1


def _skip_space(body: bytes, at: i64) -> i64:
    size: i64 = len(body)
    while at < size and (body[at] == 32 or body[at] == 10 or body[at] == 13 or body[at] == 9):
        at += 1
    return at


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
class Holding:
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

    def add(self, bit: int, names: Table, hashes: vec[i64], keys: vec[i64]) -> list[int]:
        """Adds a holder to keys and gives it names for them.

        Leaves out, and gives the positions of, those that it has a name for or holds already.
        """
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
            named = names.shard(name_h)
            if named.find(name, name_h) >= 0:
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
            names.add(named, name, keys[position], name_h)
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

    def discard_all(self, bit: int, keys: vec[i64]) -> None:
        """Takes a holder from each of the keys that it holds."""
        for key in keys:
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

    def prefix(self, keys: vec[i64], wanted: int) -> list[tuple[int, int]]:
        """Who of the wanted holds each key so far: (position, mask) wherever that changes, up to where none does."""
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

    def spans(self, keys: vec[i64]) -> list[tuple[int, int]]:
        """Who holds each key: (position, mask) wherever that changes, from (0, …) on."""
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
        """The number of the mask of a key's holders."""
        if key == 0:
            key = _ZERO
        h = _mix(key)
        shard = self._table.shard(h)
        entry = shard.find(key, h)
        return shard.values[entry] if entry >= 0 else 0

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
