"""A simulated engine that serves several requests at once, with KV-cache groups and a tier below the device.

Source: vllm/v1/core/sched/scheduler.py, kv_cache_manager.py and kv_cache_coordinator.py, vLLM 0.33."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import xxhash

from service.simulation.block_pool import BlockPool, Content
from service.simulation.cache_groups import CacheGroup
from service.simulation.offload import Chunk, Offload

Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and its generated tokens."""

    tokens: tuple[int, ...]
    output: tuple[int, ...] = (0,)
    lora_name: str | None = None
    cache_salt: str | None = None
    reports: bool = False
    """vLLM's kv_cache_report_mode "full": the request announces its reused blocks again."""
    computes_all: bool = False
    """Disables reuse, as for requests with prompt_logprobs."""


class Reused(NamedTuple):
    """Leading tokens of a prompt that would be reused: on the device, and including the tier below."""

    on_device: int
    tokens: int


@dataclass(slots=True, eq=False)
class _Running:
    """A request with its blocks: per group one for each position, None where the group keeps none."""

    request: Request
    hashes: list[int]
    blocks: list[list[int | None]]
    computed: int
    cached: list[int]
    """Per group, the number of leading blocks that were announced or reused."""
    boundaries: tuple[int, ...]
    offloaded: int = 0
    fetching: list[Chunk] = field(default_factory=list)
    wait: int = 0
    """Steps until the fetched blocks arrive."""

    @property
    def everything(self) -> tuple[int, ...]:
        return self.request.tokens + self.request.output

    @property
    def last(self) -> int:
        """The number of computed tokens at the end; the last generated token is never computed."""
        return len(self.everything) - 1


class BatchedEngine:
    """Serves requests step by step, at most `chunk` tokens of each per step.

    `events` of a step are one batch of vLLM, as maps. Block hashes are chained over units of the greatest common
    divisor of the groups' block sizes; hits are multiples of their least common multiple.
    """

    def __init__(
        self,
        groups: Sequence[CacheGroup],
        blocks: int,
        *,
        chunk: int = 2048,
        offload: Offload | None = None,
        fetch_steps: int = 2,
    ) -> None:
        self._groups = tuple(groups)
        self._unit = math.gcd(*(group.block_size for group in groups))
        self._alignment = math.lcm(*(group.block_size for group in groups))
        self._pool = BlockPool(blocks)
        self._chunk = chunk
        self._offload = offload
        self._fetch_steps = fetch_steps
        self._waiting: deque[Request] = deque()
        self._running: list[_Running] = []
        self._events: list[Event] = []
        self._below: list[Event] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def reused(self, tokens: Sequence[int], lora_name: str | None = None, cache_salt: str | None = None) -> Reused:
        """The tokens that a request with this prompt would reuse now; its last token never counts."""
        hashes = self._hashes(tokens, lora_name, cache_salt)
        on_device = self._hit(hashes, len(tokens) - 1)
        return Reused(on_device, self._extended(hashes, on_device, len(tokens) - 1))

    def submit(self, request: Request) -> None:
        """Queues a request. Raises ValueError if it can never fit."""
        if self._demand(len(request.tokens) + len(request.output)) > self._pool.blocks - 1:
            raise ValueError(f"{len(request.tokens)} tokens do not fit into {self._pool.blocks - 1} blocks")
        self._waiting.append(request)

    def reset(self, *, connector: bool = False) -> bool:
        """Empties the device, announced in the next step; False while requests run, as vLLM refuses it then.

        `connector` also empties the tier below, as `reset_prefix_cache(reset_connector=True)` does: no event says so.
        """
        if self._running or not self._pool.clear():
            return False
        if connector and self._offload is not None:
            self._offload.clear()
        self._events.append({"type": "AllBlocksCleared"})
        return True

    def step(self) -> list[Event]:
        """Computes one chunk of each request, and returns the events of the batch."""
        self._admit()
        for running in list(self._running):
            if running.wait:
                running.wait -= 1
                if not running.wait:
                    self._cache(running, running.computed)
                continue
            if running.fetching and self._offload is not None:
                self._offload.fetched(running.fetching)
                running.fetching = []
            self._compute(running)
        events, self._events = self._events + self._below, []
        self._below = []
        return events

    def _admit(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            promised = sum(self._demand(len(running.everything)) for running in self._running)
            if promised + self._demand(len(request.tokens) + len(request.output)) > self._pool.blocks - 1:
                return
            self._running.append(self._begin(self._waiting.popleft()))

    def _demand(self, tokens: int) -> int:
        return sum(-(-tokens // group.block_size) + 1 for group in self._groups)

    def _begin(self, request: Request) -> _Running:
        hashes = self._hashes(request.tokens + request.output, request.lora_name, request.cache_salt)
        most = 0 if request.computes_all else len(request.tokens) - 1
        hit = self._hit(hashes, most)
        extended = self._extended(hashes, hit, most)
        junction = self._full_hit(hashes, most)
        boundaries = (len(request.tokens) - 1, *([junction] if junction > hit else []))
        running = _Running(request, hashes, [], hit, [], boundaries, offloaded=0)
        for number, group in enumerate(self._groups):
            end = hit // group.block_size
            first = group.skipped(hit)
            blocks = [None if i < first else self._pool.find(self._content(number, hashes, i)) for i in range(end)]
            for block in blocks:
                if block is not None:
                    self._pool.use(block)
            running.blocks.append(blocks)
            running.cached.append(end)
            if request.reports and end:
                self._announce(running, number, 0, end, range(end))
        if extended > hit and self._offload is not None:
            size = self._groups[0].block_size
            running.fetching = self._offload.fetch(hashes, hit // size, extended // size)
            self._allocate(running, extended)
            running.computed = extended
            running.wait = self._fetch_steps
        return running

    def _compute(self, running: _Running) -> None:
        prompt = len(running.request.tokens)
        end = running.computed + 1 if running.computed >= prompt else min(prompt, running.computed + self._chunk)
        if running.last <= running.computed:
            end = running.computed
        recurrent = any(group.kind == "mamba" for group in self._groups)
        if recurrent and end < prompt:
            end = max(running.computed + 1, end // self._alignment * self._alignment)
        elif recurrent and running.computed < prompt // self._alignment * self._alignment < end:
            end = prompt // self._alignment * self._alignment  # the last boundary of the prompt keeps a state
        self._drop_skipped(running)
        self._allocate(running, end)
        self._cache(running, end)
        running.computed = end
        if end >= running.last:
            self._finish(running)

    def _drop_skipped(self, running: _Running) -> None:
        for group, blocks in zip(self._groups, running.blocks, strict=True):
            for number in reversed(range(min(group.skipped(running.computed), len(blocks)))):
                if (block := blocks[number]) is not None:
                    self._pool.give_back(block)
                    blocks[number] = None

    def _allocate(self, running: _Running, end: int) -> None:
        for group, blocks in zip(self._groups, running.blocks, strict=True):
            wanted = -(-end // group.block_size)
            while len(blocks) < wanted:
                if group.kind == "mamba" and len(blocks) < end // group.block_size - 1:
                    blocks.append(None)  # states within a step are never stored
                    continue
                block, evicted = self._pool.take()
                if evicted is not None:
                    self._events.append(
                        {
                            "type": "BlockRemoved",
                            "block_hashes": [evicted.hash],
                            "medium": "GPU",
                            "group_idx": evicted.group,
                        }
                    )
                blocks.append(block)

    def _cache(self, running: _Running, end: int) -> None:
        for number, group in enumerate(self._groups):
            start, stop = running.cached[number], end // group.block_size
            if start >= stop:
                continue
            mask = group.kept(start, stop, self._alignment, running.boundaries)
            kept = []
            for index in range(start, stop):
                block = running.blocks[number][index]
                if block is not None and mask[index - start] and not self._pool.holds(block):
                    self._pool.fill(block, self._content(number, running.hashes, index))
                    kept.append(index)
            self._announce(running, number, start, stop, kept)
            running.cached[number] = stop
        self._store_below(running)

    def _announce(self, running: _Running, number: int, start: int, stop: int, kept: Iterable[int]) -> None:
        group, request = self._groups[number], running.request
        kept = list(kept)
        self._events.append(
            {
                "type": "BlockStored",
                "block_hashes": [self._content(number, running.hashes, index).hash for index in kept],
                "parent_block_hash": self._content(number, running.hashes, start - 1).hash if start else None,
                "token_ids": running.everything[start * group.block_size : stop * group.block_size],
                "block_size": group.block_size,
                "lora_id": 1 if request.lora_name else None,
                "medium": "GPU",
                "lora_name": request.lora_name,
                "extra_keys": _extra_keys(request, kept),
                "group_idx": number,
                "kv_cache_spec_kind": group.kind,
                "kv_cache_spec_sliding_window": group.window or None,
            }
        )

    def _store_below(self, running: _Running) -> None:
        """Offloads complete chunks; the next step announces them."""
        if self._offload is None:
            return
        count, size = self._offload.blocks_per_chunk, self._groups[0].block_size
        chunks = []
        while (running.offloaded + 1) * count <= running.cached[0]:
            first = running.offloaded * count
            hashes = [self._content(0, running.hashes, index).hash for index in range(first, first + count)]
            parent = self._content(0, running.hashes, first - 1).hash if first else None
            chunks.append(Chunk(hashes, parent, running.everything[first * size : (first + count) * size]))
            running.offloaded += 1
        lora = running.request.lora_name
        self._below += self._offload.store(chunks, {"lora_name": lora, "lora_id": 1 if lora else None})

    def _finish(self, running: _Running) -> None:
        self._running.remove(running)
        for blocks in running.blocks:
            for block in reversed(blocks):
                if block is not None:
                    self._pool.give_back(block)

    def _content(self, number: int, hashes: Sequence[int], index: int) -> Content:
        return Content(number, hashes[(index + 1) * self._groups[number].block_size // self._unit - 1])

    def _hit(self, hashes: Sequence[int], most: int) -> int:
        tokens = most // self._alignment * self._alignment
        while tokens > 0 and not all(self._reuses(number, hashes, tokens) for number in range(len(self._groups))):
            tokens -= self._alignment
        return max(0, tokens)

    def _reuses(self, number: int, hashes: Sequence[int], tokens: int) -> bool:
        def cached(index: int) -> bool:
            return self._pool.find(self._content(number, hashes, index)) is not None

        return self._groups[number].reuses(tokens, cached)

    def _full_hit(self, hashes: Sequence[int], most: int) -> int:
        """The longest hit of a full-attention group, which is where requests with a shared prefix diverge."""
        best = 0
        for number, group in enumerate(self._groups):
            if group.needed is None:
                end = 0
                while (end + 1) * group.block_size <= most and self._pool.find(self._content(number, hashes, end)):
                    end += 1
                best = max(best, end * group.block_size)
        return best

    def _extended(self, hashes: Sequence[int], on_device: int, most: int) -> int:
        if self._offload is None or most <= 0:
            return on_device
        size = self._groups[0].block_size
        return self._offload.matched(hashes, on_device // size, most // size) * size

    def _hashes(self, tokens: Sequence[int], lora_name: str | None, cache_salt: str | None) -> list[int]:
        data, width = memoryview(array("I", tokens)).cast("B"), 4 * self._unit
        hashes = []
        parent = xxhash.xxh3_64_intdigest(f"{lora_name}\0{cache_salt}".encode())
        for start in range(0, len(data) - width + 1, width):
            parent = xxhash.xxh3_64_intdigest(data[start : start + width], parent)
            hashes.append(parent)
        return hashes


def _extra_keys(request: Request, kept: Sequence[int]) -> list[tuple[str, ...] | None] | None:
    """vLLM's extra keys of blocks: the LoRA name in each block, the salt in the first."""
    keys = [
        ((request.lora_name,) if request.lora_name else ())
        + ((request.cache_salt,) if request.cache_salt and index == 0 else ())
        for index in kept
    ]
    return [key or None for key in keys] if any(keys) else None
