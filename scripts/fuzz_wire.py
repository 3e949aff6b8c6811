#!/usr/bin/env python3
"""Fuzzes decoding, ordering and the index with damaged event messages.

Frames of the recordings are damaged in their bytes or in their values, and applied to an index that is queried in
between. No call may raise or take long, and at the end the index must be consistent. Prints how many frames were
applied or refused; exits 1 on a violation.

Usage: scripts/fuzz_wire.py [--frames N] [--seed N]
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import re
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from service.contract.endpoints import Endpoint  # noqa: E402 - after the checkout is on the path
from service.events.arrival import read_arrival  # noqa: E402
from service.events.index_sink import IndexSink  # noqa: E402
from service.events.rate_limited_log import RateLimitedLog  # noqa: E402
from service.events.recording import Recording  # noqa: E402
from service.events.sequencer import Sequencer  # noqa: E402
from service.events.statistics import EventStatistics  # noqa: E402
from service.events.topic import read_topic  # noqa: E402
from service.events.wire import WireError  # noqa: E402
from service.index.base import Prompt, Rank  # noqa: E402
from service.index.memory import MemoryIndex  # noqa: E402

MODEL = "ibm-granite/granite-3.3-2b-instruct"
SLOW_SECONDS = 0.25
_MAX_BLOCKS = 500
_BESIDE = re.compile(r"\.(requests|replay\d)\.jsonl$")
_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    16,
    2**31,
    2**32,
    2**63,
    2**64 - 1,
    -(2**63),
    0.5,
    float("nan"),
    "",
    "GPU",
    "CPU",
    "full_attention",
    "sliding_window",
    "mamba",
    "x" * 300,
    b"",
    b"\xff" * 32,
    [],
    [None],
    [[]],
    [[1, 2]],
    {},
    {"type": "BlockStored"},
)


@dataclass
class Outcome:
    """Frames applied and refused, reasons of skipped parts, and the longest time of a frame."""

    frames: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    disagreements: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    started = time.monotonic()
    outcome = fuzz(arguments.frames, arguments.seed)
    seconds, slowest = time.monotonic() - started, outcome.slowest * 1000
    print(f"{outcome.frames:,} frames in {seconds:.0f} s, slowest {slowest:.1f} ms of CPU")
    print(f"refused: {sum(outcome.refused.values()):,} {dict(outcome.refused.most_common())}")
    print(f"events skipped: {sum(outcome.skipped.values()):,} {dict(outcome.skipped.most_common())}")
    for disagreement in outcome.disagreements:
        print(f"the index disagrees with itself: {disagreement}")
    return 1 if outcome.disagreements or outcome.slowest > SLOW_SECONDS else 0


def fuzz(frames: int, seed: int, recordings: Path = ROOT / "tests" / "recordings") -> Outcome:
    """Feeds `frames` damaged frames; lets every exception through."""
    draw = random.Random(seed)
    # Requests and the answers of replay sockets, a.requests.jsonl and a.replay0.jsonl, are no recordings.
    paths = [path for path in sorted(recordings.glob("*.jsonl")) if not _BESIDE.search(path.name)]
    payloads = [payload for path in paths for payload in payloads_of(path)]
    index, statistics = MemoryIndex(_MAX_BLOCKS), EventStatistics()
    log = RateLimitedLog(logging.getLogger(__name__))
    sequencers: dict[Rank, Sequencer] = {}
    outcome = Outcome(frames)
    gc.collect()
    gc.freeze()  # so that objects from before the measurement are not collected in it
    for number in range(frames):
        payload = mutate(draw, draw.choice(payloads))
        topic = b"kv@p@" + MODEL.encode()
        if draw.random() < 0.05:
            topic = mutate_bytes(draw, topic)
        started = time.thread_time()
        try:
            arrival = read_arrival(0, payload)
        except WireError as error:
            outcome.refused[str(error)] += 1
        else:
            source = read_topic(topic, Endpoint("tcp://127.0.0.1:1"), MODEL)
            rank = Rank(source.pod, source.model, arrival.batch.rank)
            if rank not in sequencers:
                start_replay = draw.choice((None, _nobody_answers))
                sequencers[rank] = Sequencer(IndexSink(rank, index, statistics, log), start_replay=start_replay)
            sequencer = sequencers[rank]
            due = sequencer.next
            sequence = due if draw.random() < 0.99 else draw.choice((0, due + 1, draw.getrandbits(64)))
            sequencer.receive(msgspec.structs.replace(arrival, sequence=sequence))
            sequencer.replay_failed("nobody answers", final=True)
        outcome.slowest = max(outcome.slowest, time.thread_time() - started)
        if number % 1000 == 999:
            index.match(Prompt(MODEL, array("I", range(512))))
            index.sweep(1000)
            for forgotten in list(sequencers)[:-50]:
                sequencers.pop(forgotten).forget()
    gc.unfreeze()
    outcome.skipped = statistics.skipped
    outcome.disagreements = index.disagreements()
    return outcome


def _nobody_answers() -> None: ...


def payloads_of(path: Path) -> list[bytes]:
    with path.open("rb") as lines:
        return [message.payload for message in Recording(lines)]


def mutate(draw: random.Random, payload: bytes) -> bytes:
    """Damages a payload's bytes, its values, or both."""
    kind = draw.random()
    if kind < 0.8:
        batch = msgspec.msgpack.decode(payload)
        for _ in range(draw.randint(0, 2)):
            batch[1] = mutate_value(draw, batch[1])
        payload = msgspec.msgpack.encode(batch if draw.random() < 0.9 else mutate_value(draw, batch))
    return mutate_bytes(draw, payload) if kind > 0.7 else payload


def mutate_bytes(draw: random.Random, data: bytes) -> bytes:
    """Flips, drops, repeats, inserts or swaps some bytes."""
    mutable = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if not mutable:
            break
        draw.choice(_BYTE_DAMAGES)(draw, mutable)
    return bytes(mutable)


def _flip(draw: random.Random, data: bytearray) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _overwrite(draw: random.Random, data: bytearray) -> None:
    data[draw.randrange(len(data))] = draw.choice((0x00, 0x80, 0x90, 0xC0, 0xC1, 0xD9, 0xDD, 0xDF, 0xFF))


def _cut(draw: random.Random, data: bytearray) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.choice((1, 8, len(data)))]


def _repeat(draw: random.Random, data: bytearray) -> None:
    start = draw.randrange(len(data))
    data[start:start] = data[start : start + draw.randint(1, 64)]


def _insert(draw: random.Random, data: bytearray) -> None:
    start = draw.randrange(len(data))
    data[start:start] = draw.randbytes(draw.randint(1, 8))


_BYTE_DAMAGES: Sequence[Callable[[random.Random, bytearray], None]] = (_flip, _overwrite, _cut, _repeat, _insert)


def mutate_value(draw: random.Random, value: Any) -> Any:
    """Replaces, drops, repeats or shuffles one value somewhere in a structure."""
    if not isinstance(value, list | dict) or not value or draw.random() < 0.05:
        return draw.choice(_ODD_VALUES)
    if isinstance(value, dict):
        name = draw.choice(list(value))
        changed = {**value, name: mutate_value(draw, value[name])}
        if draw.random() < 0.2:
            del changed[name]
        return changed
    position = draw.randrange(len(value))
    match draw.randrange(8):
        case 0:
            return value[:position]
        case 1:
            return [*value, value[position]]
        case 2:
            return draw.sample(value, len(value))
    return [*value[:position], mutate_value(draw, value[position]), *value[position + 1 :]]


if __name__ == "__main__":
    sys.exit(main())
