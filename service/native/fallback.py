"""The inner loops in Python, for machines where service/native is not compiled."""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from xxhash import xxh64_intdigest

_unpack = msgspec.msgpack.Decoder(list[int]).decode
_KEY_BITS = (1 << 60) - 1  # the largest int that takes 32 bytes in Python; 64 bits take 48


def block_keys(parent: int, tokens: bytes, block_bytes: int) -> list[int]:
    """XXH64 of each whole block, seeded with the key before it, cut to 60 bits."""
    whole = memoryview(tokens)[: len(tokens) // block_bytes * block_bytes]
    keys: list[int] = []
    key = parent
    for (block,) in struct.iter_unpack(f"{block_bytes}s", whole):
        key = xxh64_intdigest(block, key) & _KEY_BITS
        keys.append(key)
    return keys


def messages_start(body: bytes) -> int:
    """The offset of the messages in a valid JSON object. Always -1: only the compiled scanner looks for it."""
    return -1


def messages_end(body: bytes, at: int) -> tuple[int, int]:
    """The end of the last message and the number of messages from `at` on, an offset that `messages_start` gave."""
    raise NotImplementedError("messages_start finds no messages without the compiled scanner")


def is_text_only(messages: Sequence[Mapping[str, Any]], billing_header: str) -> bool:
    """Whether each message is exactly a role (user, assistant or system), then a text content.

    False if a system message starts with `billing_header`.
    """
    for message in messages:
        if len(message) != 2 or type(content := message.get("content")) is not str or next(iter(message)) != "role":
            return False
        role = message["role"]
        if role not in ("user", "assistant") and (role != "system" or content.startswith(billing_header)):
            return False
    return True


def as_key_vector(numbers: Sequence[int]) -> Sequence[int]:
    """Block keys or block hashes in the form that GroupMasks takes."""
    return numbers


def unpack_hashes(packed: bytes) -> Sequence[int] | None:
    """The integers of a msgpack array as signed 64-bit ones; None if it holds anything else."""
    try:
        numbers = _unpack(packed)
    except (ValueError, RecursionError):
        return None
    return [number - (1 << 64) if number >> 63 > 0 else number for number in numbers]


def unpack_tokens(packed: bytes) -> array[int] | None:
    """The integers of a msgpack array as unsigned 32-bit ones; None if it holds anything else."""
    try:
        return array("I", _unpack(packed))
    except (ValueError, RecursionError, OverflowError):
        return None


def read_common_batch(
    packed: bytes, stored: Callable[..., object], removed: Callable[..., object], gpu: object
) -> tuple[float, list[Any], int, bool] | None:
    """A payload's timestamp, events, rank, and whether it stores a prompt's first block in a cache group.

    Always None: only the compiled reader has a fast path for common batches.
    """
    return None


class Receiver:
    """Reads messages of a ZeroMQ socket by libzmq's own functions: only compiled."""

    def __init__(
        self,
        functions: Sequence[int],
        socket: int,
        *,
        with_origin: bool,
        message: Callable[[bytes, int, bytes, int | None, str | None], Any],
        malformed: Any,
        error: Callable[[int], Exception],
    ) -> None:
        raise NotImplementedError("libzmq's functions are called by the compiled loops alone")

    def receive(self) -> Any:
        raise NotImplementedError


class GroupWriter:
    """Applies whole batches to one cache group: only compiled."""

    def __init__(
        self,
        masks: GroupMasks,
        hashes: Table,
        *,
        bit: int,
        root: int,
        block_size: int,
        group: int | None,
        rank: int,
        extra_copies: dict[tuple[int, Any], int],
        ambiguous_copies: dict[int, bool],
    ) -> None: ...

    def open(self, finish: Callable[[bytes, int], None], *, removes: bool, half_removed: set[int]) -> None: ...

    def apply(self, packed: bytes, since: float) -> float | None:
        """None: the batch is not applied."""
        return None

    def take(self) -> tuple[int, int, int, int]:
        """Nothing was applied."""
        return 0, 0, 0, 0


def prompt_ids(body: bytes) -> tuple[array[int] | list[array[int]], int, int] | None:
    """The token ids under "prompt" of a JSON object, of one prompt or of several, and the start and end of their array.

    Always None: only the compiled scanner finds them without decoding the body.
    """
    return None


_LETTER = "A-Za-zА-Яа-я가-힣"
_WORD = f"!-~{_LETTER}"
_SAFE_SPACE = f"(?<=[{_WORD}])(?= [{_WORD}])"
_SAFE_IN_RUN = rf"(?<=[ \n])(?= [!-/:-~{_LETTER}])"
_SAFE_LINE = rf"(?<=[!-~{_LETTER}一-龥。，！？：；）])(?=\n[{_LETTER}一-龥])"
_WORDS = {
    (at_lines, in_runs): re.compile(
        rf" ?[^ \n]*(?:(?:(?!{_SAFE_SPACE}{f'|{_SAFE_IN_RUN}' * in_runs}) |{f'(?!{_SAFE_LINE})' * at_lines}\n)[^ \n]*)*"
        + r"\n?" * at_lines
    )
    for at_lines in (False, True)
    for in_runs in (False, True)
}
"""Each matches from one safe cut to the next."""


def split_words(text: str, at_lines: bool, in_runs: bool) -> list[str]:
    """Splits a text into words; joined, they are the text."""
    return _WORDS[at_lines, in_runs].findall(text)[:-1] or [text]


def unpack_numbers(packed: bytes) -> Sequence[int]:
    """Block keys or block hashes, 8 bytes little-endian each, in the form that the tables take."""
    return [number for (number,) in struct.iter_unpack("<q", packed)]


def _pack_numbers(numbers: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<q", number) for number in numbers)


_SLICE = 8192


class Table(dict[int, int]):
    """Block hashes to block keys, in insertion order."""

    __slots__ = ()

    def shards(self) -> list[tuple[int, int]]:
        return [(0, len(self))]

    def shape(self, shards: list[tuple[int, int]]) -> None:
        """A dict has its own order."""

    def slices(self) -> Iterator[tuple[bytes, bytes]]:
        """Raises RuntimeError if the table changes meanwhile."""
        entries = iter(self.items())
        while some := list(islice(entries, _SLICE)):
            yield _pack_numbers(key for key, _ in some), _pack_numbers(value for _, value in some)

    def put_all(self, keys: Sequence[int], values: Sequence[int]) -> None:
        self.update(zip(keys, values, strict=True))

    def put(self, key: int, value: int) -> None:
        self[key] = value

    def forget(self, key: int) -> None:
        self.pop(key, None)

    def oldest(self, most: int) -> list[int]:
        return list(islice(self, most))

    def take_oldest(self, most: int) -> list[int]:
        return [self.pop(key) for key in self.oldest(most)]

    def drain(self, most: int) -> list[int]:
        return [self.popitem()[1] for _ in range(min(most, len(self)))]


class GroupMasks:
    """Block keys to masks of the cache groups that hold them."""

    __slots__ = ("_masks",)

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._masks)

    def get(self, key: int) -> int:
        return self._masks.get(key, 0)

    def add(self, bit: int, hash_table: Table, hashes: Sequence[int], keys: Sequence[int]) -> list[int]:
        skipped: list[int] = []
        masks = self._masks
        before, after = 0, bit
        for position, (block_hash, key) in enumerate(zip(hashes, keys, strict=True)):
            mask = masks.get(key, 0)
            if mask & bit or block_hash in hash_table:
                skipped.append(position)
                continue
            if mask != before:
                before, after = mask, mask | bit
            masks[key] = after  # one int object for consecutive blocks with equal masks
            hash_table[block_hash] = key
        return skipped

    def set(self, bit: int, key: int) -> None:
        self._masks[key] = self._masks.get(key, 0) | bit

    def set_all(self, bit: int, keys: Sequence[int]) -> int:
        added = 0
        masks = self._masks
        before, after = 0, bit
        for key in keys:
            mask = masks.get(key, 0)
            if mask & bit:
                continue
            if mask != before:
                before, after = mask, mask | bit
            masks[key] = after
            added += 1
        return added

    def holds(self, bit: int, keys: Sequence[int]) -> bytes:
        return bytes(bool(self._masks.get(key, 0) & bit) for key in keys)

    def discard(self, bit: int, key: int) -> bool:
        mask = self._masks.get(key, 0)
        if mask == bit:
            del self._masks[key]
        elif mask & bit:
            self._masks[key] = mask ^ bit
        return bool(mask & bit)

    def discard_all(self, bit: int, keys: Sequence[int]) -> None:
        for key in keys:
            self.discard(bit, key)

    def prefix(self, keys: Sequence[int], wanted: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        get = self._masks.get
        for position, key in enumerate(keys):
            still = wanted & get(key, 0)
            if still != wanted:
                found.append((position, still))
                wanted = still
                if not still:
                    break
        return found

    def spans(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        last = -1
        for position, key in enumerate(keys):
            mask = self._masks.get(key, 0)
            if mask != last:
                last = mask
                found.append((position, mask))
        return found

    def items(self) -> list[tuple[int, int]]:
        return list(self._masks.items())


class PodOrder:
    """The pods of cache groups in the order of their names; groups are the bits of masks."""

    __slots__ = ("_by_bit", "names")

    def __init__(self, by_bit: list[str], former: Sequence[str] = ()) -> None:
        """`by_bit` is the pod of each group, which several may share; `former` the names of an earlier order."""
        self._by_bit = by_bit.copy()
        known = set(by_bit)
        self.names = sorted(dict.fromkeys([*(name for name in former if name in known), *by_bit]))
        """Each pod once, in order."""

    def add_scores(self, scores: dict[str, float], mask: int, score: float, most: int) -> None:
        """Gives a score to the pods of the groups in `mask` that have none, until there are `most` scores.

        Raises ValueError for a group without a pod.
        """
        if mask.bit_length() > len(self._by_bit):
            raise ValueError(f"bit {mask.bit_length() - 1} has no pod")
        pods = {pod for pod, bit in zip(self._by_bit, reversed(f"{mask:b}"), strict=False) if bit == "1"}
        for pod in sorted(pods):
            if len(scores) >= most:
                return
            scores.setdefault(pod, score)


class RankLoad:
    """One rank as its cost is computed from it. Times are in seconds."""

    __slots__ = (
        "behind",
        "finish",
        "is_busy",
        "last_prefill",
        "overhead",
        "requests",
        "seconds_per_token",
        "weight",
    )

    def __init__(self, overhead: float, seconds_per_token: float, weight: float = 1.0) -> None:
        """`overhead` and `seconds_per_token` are its prefill speed, `weight` is the share of requests that it gets."""
        self.overhead = overhead
        self.seconds_per_token = seconds_per_token
        self.weight = weight
        self.is_busy = False
        """Whether a further prefill has to wait."""
        self.finish = 0.0
        """Time at which the oldest prefill is expected to end."""
        self.behind = 0.0
        """Seconds of work behind the oldest prefill."""
        self.requests = 0
        """Requests in flight."""
        self.last_prefill = 0.0
        """When the oldest prefill began; without one, when the last one ended."""

    def wait(self, now: float) -> float:
        """Seconds until a further prefill begins."""
        return max(0.0, self.finish - now) + self.behind


class Positions:
    """The positions of ranks, by the bits of their groups in masks."""

    __slots__ = ("at",)

    def __init__(self, by_bit: list[int | None]) -> None:
        """Groups of other ranks have the position None."""
        self.at = by_bit.copy()


Load = TypeVar("Load", bound=RankLoad)


class RankCosts(Generic[Load]):
    """The cost of one request on each of many ranks, which are known by their positions.

    `weigh` is called once the uncached tokens are set, then `cost`, `rule_out` and `best`.
    """

    __slots__ = ("_bits", "_costs", "_out", "_uncached", "ranks")

    def __init__(self, ranks: list[Load], uncached: float) -> None:
        """`uncached` are the tokens that a rank must compute that holds nothing of the prompt."""
        self.ranks = ranks
        self._costs = [0.0] * len(ranks)
        self._uncached = [uncached] * len(ranks)
        self._bits = [-1] * len(ranks)
        self._out: set[int] = set()

    def hold(self, mask: int, positions: Positions, uncached: float) -> None:
        """Sets the uncached tokens of the ranks of the groups in a mask.

        Raises ValueError for a group that `positions` does not know.
        """
        if mask.bit_length() > len(positions.at):
            raise ValueError(f"bit {mask.bit_length() - 1} has no position")
        for bit, (position, is_set) in enumerate(zip(positions.at, reversed(f"{mask:b}"), strict=False)):
            if is_set == "1" and position is not None and 0 <= position < len(self.ranks):
                self._uncached[position] = uncached
                self._bits[position] = bit

    def bit(self, position: int) -> int:
        """The bit by which `hold` was called last for a rank; -1 if it was not."""
        return self._bits[position]

    def uncached(self, position: int) -> float:
        return self._uncached[position]

    def set_uncached(self, position: int, uncached: float) -> None:
        self._uncached[position] = uncached

    def cost(self, position: int) -> float:
        return self._costs[position]

    def weigh(self, arrivals: float, reused: float, now: float) -> None:
        """Computes the costs as service/routing/cost.py describes them; `wait` is asked only after `finish`."""
        evicting = 1 + reused
        self._costs = [
            (
                rank.overhead + tokens * rank.seconds_per_token * evicting
                if not rank.is_busy
                else (wait := rank.finish - now + rank.behind if rank.finish > now else rank.wait(now))
                + rank.overhead
                + tokens * rank.seconds_per_token * (evicting + arrivals * wait)
            )
            / rank.weight
            for rank, tokens in zip(self.ranks, self._uncached, strict=True)
        ]

    def rule_out(self, positions: list[int]) -> None:
        """Makes `best` leave out some ranks."""
        self._out.update(positions)

    def best(self, factor: float, chance: float) -> int | None:
        """The position of the rank to take among those that cost up to `factor` times the lowest cost.

        That of the fewest uncached tokens, of the fewest requests by weight, of the earliest last prefill; then
        `chance`, from 0 to below 1, chooses. None if all are ruled out.
        """
        left = [position for position in range(len(self.ranks)) if position not in self._out]
        limit = min((self._costs[position] for position in left), default=0.0) * factor
        near = [
            (self._uncached[position], rank.requests / rank.weight, rank.last_prefill, position)
            for position, rank in ((position, self.ranks[position]) for position in left)
            if self._costs[position] <= limit
        ]
        if not near:
            return None
        first = min(near)[:3]
        equal = [position for *order, position in near if tuple(order) == first]
        return equal[int(chance * len(equal))]
