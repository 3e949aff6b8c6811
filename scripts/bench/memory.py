#!/usr/bin/env python3
"""What a held block costs in memory, and for how long clearing a million of them holds up everything else.

Engines share some of their prefixes: of each pod's blocks, that share is of chains that all pods hold. The events go
through the same decoding and ordering as off a socket. Prints bytes of resident memory per held block, in rounds each
of which starts a process of its own; then the same after as many blocks again have come and gone; then the longest
slice of a clear.

Usage: scripts/bench/memory.py [--blocks N] [--pods N] [--shared SHARE] [--hash int|sha256] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from service.events.intake import Intake  # noqa: E402 - the checkout is on the path now
from service.events.pool import SWEEP_BLOCKS  # noqa: E402
from service.events.statistics import EventStatistics  # noqa: E402
from service.events.stream import arrival  # noqa: E402
from service.index.base import Rank  # noqa: E402
from service.index.memory import MemoryIndex  # noqa: E402

_BLOCK_SIZE = 16
_CHAIN = 32


@dataclass(frozen=True, slots=True)
class Measured:
    """One round. Bytes are per held block, the slice is in milliseconds."""

    filled: float
    turned_over: float
    longest_slice: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1_000_000, help="blocks held, over all pods")
    parser.add_argument("--pods", type=int, default=8)
    parser.add_argument("--shared", type=float, default=0.5, help="share of each pod's blocks that all pods hold")
    parser.add_argument("--hash", choices=("int", "sha256"), default="int", help="what engines call their blocks by")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-round", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_round:
        print(json.dumps(asdict(measure(arguments))))
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--one-round"]
    rounds = [
        Measured(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        for _ in range(arguments.rounds)
    ]
    medians = {name: statistics.median(getattr(one, name) for one in rounds) for name in asdict(rounds[0])}
    if arguments.json:
        print(json.dumps({"blocks": arguments.blocks, "pods": arguments.pods, "shared": arguments.shared, **medians}))
        return
    print(
        f"{arguments.blocks:,} blocks on {arguments.pods} pods, {arguments.shared:.0%} shared, {arguments.hash} hashes"
    )
    print(f"bytes per held block: {medians['filled']:.0f}; after turnover: {medians['turned_over']:.0f}")
    print(f"longest slice of clearing them: {medians['longest_slice']:.1f} ms")


def measure(arguments: argparse.Namespace) -> Measured:
    index = MemoryIndex(max_blocks=sys.maxsize)
    intake = Intake(index, EventStatistics(), lambda stream: None)
    engines = [Engine(pod, arguments) for pod in range(arguments.pods)]
    streams = [
        intake.stream(f"engine {engine.pod}", Rank(f"10.0.0.{engine.pod}:8000", "m"), None) for engine in engines
    ]

    def feed(first: int, last: int) -> None:
        for number in range(first, last):
            for engine, stream in zip(engines, streams, strict=True):
                intake.receive(stream, arrival(stream.next, engine.batch(number)))

    empty = resident_bytes()
    chains = engines[0].chains
    feed(0, chains)
    filled = (resident_bytes() - empty) / index.blocks
    feed(chains, 2 * chains)
    turned_over = (resident_bytes() - empty) / index.blocks
    for stream in streams:
        index.clear(stream.rank)
    return Measured(filled, turned_over, max(sweep_milliseconds(index)))


class Engine:
    """A pod that holds so many chains of blocks and, once full, removes its oldest chain for each new one."""

    def __init__(self, pod: int, arguments: argparse.Namespace) -> None:
        self.pod = pod
        self.chains = round(arguments.blocks / arguments.pods / _CHAIN)
        self._shared = round(self.chains * arguments.shared)
        self._bytes = arguments.hash == "sha256"

    def batch(self, number: int) -> bytes:
        """The payload that announces the chain of that number."""
        gone = self._hashes(number - self.chains) if number >= self.chains else []
        events = [{"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU", "group_idx": 0} for name in gone]
        return msgspec.msgpack.encode([time.time(), [*events, self._stored(number)], 0])

    def _hashes(self, number: int) -> list[int | bytes]:
        names = random.Random(f"{self.pod} {number}")
        return [names.randbytes(32) if self._bytes else names.getrandbits(64) for _ in range(_CHAIN)]

    def _stored(self, number: int) -> dict[str, object]:
        whose = "everyone" if number % self.chains < self._shared else self.pod
        tokens = random.Random(f"{whose} {number}")
        return {
            "type": "BlockStored",
            "block_hashes": self._hashes(number),
            "parent_block_hash": None,
            "token_ids": [tokens.randrange(128_000) for _ in range(_CHAIN * _BLOCK_SIZE)],
            "block_size": _BLOCK_SIZE,
            "medium": "GPU",
            "extra_keys": [None] * _CHAIN,
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }


def sweep_milliseconds(index: MemoryIndex) -> Iterator[float]:
    more = True
    while more:
        started = time.perf_counter()
        more = index.sweep(SWEEP_BLOCKS)
        yield (time.perf_counter() - started) * 1000


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
