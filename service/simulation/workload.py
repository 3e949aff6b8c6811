"""Seeded random workloads for a simulated engine, and the search for wrong index answers that claim to be exact."""

from __future__ import annotations

import random
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from service.events.recording import Recorded
from service.index.base import Index
from service.index.memory import MemoryIndex
from service.offline.feed import Feed
from service.simulation.batched_engine import BatchedEngine, Event, Request
from service.simulation.cache_groups import CacheGroup
from service.simulation.offload import Offload
from service.simulation.publisher import batch_payload
from service.simulation.questions import Answer, Question, answer

MODEL = "builtin/demo"
POD = "pod"
_TOPIC = f"kv@{POD}@{MODEL}".encode()
_REMEMBERED = 6
_EVICTED = 24
"""Number of remembered requests: by then most of their blocks are evicted."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The engine of a workload, and the range of its requests."""

    groups: tuple[CacheGroup, ...] = (CacheGroup(),)
    blocks: int = 40
    chunk: int = 128
    offload: tuple[int, int, bool] | None = None
    """The lower tier: chunks, blocks per chunk, and whether its events describe them."""
    salts: tuple[str | None, ...] = (None,)
    loras: tuple[str | None, ...] = (None,)
    reports: float = 0.0
    """Share of the requests that announce reused blocks again."""
    computes_all: float = 0.0
    """Share of the requests that reuse nothing."""
    resets: float = 0.0
    connector_resets: float = 0.0
    """Share of the resets that also empty the tier below the device."""
    together: int = 3
    """Maximum of requests served at once."""

    def engine(self) -> BatchedEngine:
        offload = None if self.offload is None else Offload(*self.offload[:2], describes=self.offload[2])
        return BatchedEngine(self.groups, self.blocks, chunk=self.chunk, offload=offload)


class Serve(NamedTuple):
    """Requests that are submitted at once and served to completion."""

    requests: tuple[Request, ...]


class Reset(NamedTuple):
    """Empties the device, and with `connector` the tier below it."""

    connector: bool = False


Operation: TypeAlias = Serve | Reset

SETUPS: dict[str, Setup] = {
    "full attention": Setup(),
    "salts and LoRAs": Setup(salts=(None, "a"), loras=(None, "x")),
    "reports": Setup(reports=0.3),
    "requests that compute all": Setup(computes_all=0.2),
    "resets": Setup(resets=0.1, salts=(None, "a")),
    "window after full": Setup((CacheGroup(), CacheGroup("sliding_window", window=64)), 120),
    "window before full": Setup((CacheGroup("sliding_window", window=64), CacheGroup()), 120, salts=(None, "a")),
    "sparse window after full": Setup((CacheGroup(), CacheGroup("sliding_window", window=64, retention=0)), 120),
    "sparse windows before full": Setup(
        (
            CacheGroup("sliding_window", window=64, retention=0),
            CacheGroup("sliding_window", window=128, retention=0),
            CacheGroup(),
        ),
        200,
        salts=(None, "a"),
    ),
    "window with retention": Setup((CacheGroup("sliding_window", window=32, retention=128), CacheGroup()), 120),
    "window alone": Setup((CacheGroup("sliding_window", window=64),)),
    "sparse window alone": Setup((CacheGroup("sliding_window", window=64, retention=0),)),
    "small blocks of a window": Setup((CacheGroup(block_size=32), CacheGroup("sliding_window", 16, window=40)), 120),
    "large blocks of a window": Setup((CacheGroup(), CacheGroup("sliding_window", 32, window=64)), 120),
    "states": Setup((CacheGroup(), CacheGroup("mamba")), 120),
    "sparse states": Setup((CacheGroup(), CacheGroup("mamba", retention=0)), 120),
    "states alone": Setup((CacheGroup("mamba"),)),
    "offloading": Setup(offload=(60, 1, False), blocks=50),
    "offloading, described": Setup(offload=(60, 1, True), blocks=50),
    "offloading in chunks": Setup(offload=(20, 4, False), blocks=50),
    "offloading in chunks, described": Setup(offload=(20, 4, True), blocks=50),
    "offloading and resets": Setup(offload=(60, 1, True), blocks=50, resets=0.1),
    "offloading in chunks and resets": Setup(offload=(20, 4, True), blocks=50, resets=0.1),
    "offloading and resets of all tiers": Setup(offload=(60, 1, True), blocks=50, resets=0.1, connector_resets=0.5),
    "offloading in chunks and resets of all": Setup(
        offload=(20, 4, False), blocks=50, resets=0.1, connector_resets=0.5
    ),
}


class Found(NamedTuple):
    """A wrong answer that claims to be exact, and the operations before it."""

    setup: Setup
    operations: tuple[Operation, ...]
    answer: Answer
    batches: Sequence[Sequence[Event]]
    """All batches published before the question."""


def generate(setup: Setup, seed: int, count: int) -> list[Operation]:
    """Random operations: prompts that share prefixes, repeat, grow, and end on block boundaries."""
    random_ = random.Random(seed)  # noqa: S311 - the same each time
    unit = min(group.block_size for group in setup.groups)
    longest = min(20 * unit, (setup.blocks // len(setup.groups) // max(2, setup.together)) * unit)
    tokens = _tokens(random_)
    roots = [tokens(random_.randrange(1, longest)) for _ in range(3)]
    known = list(roots)
    operations: list[Operation] = []
    for _ in range(count):
        if random_.random() < setup.resets:
            operations.append(Reset(setup.offload is not None and random_.random() < setup.connector_resets))
            continue
        requests: list[Request] = []
        for _ in range(random_.choice((1, 1, random_.randrange(1, setup.together + 1)))):
            prompt = random_.choice((*known, *(request.tokens for request in requests)))
            prompt = prompt[: random_.randrange(1, len(prompt) + 1)] if random_.random() < 0.3 else prompt
            prompt = prompt + tokens(random_.choice((0, 1, random_.randrange(4 * unit))))
            prompt = prompt[: len(prompt) // unit * unit or 1] if random_.random() < 0.3 else prompt
            prompt = prompt[:longest] if len(prompt) > longest else prompt
            request = Request(
                prompt,
                tokens(random_.choice((1, 1, 2, unit, 2 * unit + 3))),
                random_.choice(setup.loras),
                random_.choice(setup.salts),
                random_.random() < setup.reports,
                random_.random() < setup.computes_all,
            )
            requests.append(request)
            known.append(prompt + request.output if random_.random() < 0.5 else prompt)
        known = roots + known[-_REMEMBERED:]
        operations.append(Serve(tuple(requests)))
    return operations


def _tokens(random_: random.Random) -> Callable[[int], tuple[int, ...]]:
    return lambda count: tuple(random_.randrange(1, 30_000) for _ in range(count))


def _unlimited() -> Index:
    return MemoryIndex(max_blocks=sys.maxsize)


def run(
    setup: Setup, operations: Sequence[Operation], make_index: Callable[[], Index] = _unlimited
) -> Iterator[tuple[Answer, list[list[Event]]]]:
    """Yields the answer to every question, with the batches published before it. Questions follow each batch.

    They cover the prompts of the last requests, whole and with one more token, and at the end of an operation also
    older prompts.
    """
    engine = setup.engine()
    index = make_index()
    feed = Feed(index, MODEL)
    recent: deque[Request] = deque(maxlen=_EVICTED)
    batches: list[list[Event]] = []
    silent = False  # whether a reset still waits for the batch that announces it
    for operation in operations:
        if isinstance(operation, Reset):
            silent = engine.reset(connector=operation.connector) or silent
            continue
        for request in operation.requests:
            try:
                engine.submit(request)
            except ValueError:
                continue
            recent.append(request)
        while engine.busy:
            events = engine.step()
            if not events:
                continue
            feed.apply(Recorded(POD, _TOPIC, len(batches), batch_payload(events)))
            batches.append(events)
            silent = False
            for question in _questions(engine, list(recent)[-_REMEMBERED:]):
                yield answer(feed, index, question), batches
        for question in _questions(engine, recent if batches and not silent else ()):
            yield answer(feed, index, question), batches


def _questions(engine: BatchedEngine, recent: Sequence[Request]) -> Iterator[Question]:
    for number, request in enumerate(recent, 1):
        for tokens in (request.tokens, (*request.tokens, 0), request.tokens + request.output):
            reused = engine.reused(tokens, request.lora_name, request.cache_salt)
            names = request.lora_name, request.cache_salt
            yield Question(f"prompt {number}", POD, array("I", tokens), reused.tokens, reused.on_device, *names)


def search(setup: Setup, operations: Sequence[Operation], make_index: Callable[[], Index] = _unlimited) -> Found | None:
    """The first wrong answer that claims to be exact; None if there is none."""
    for found, batches in run(setup, operations, make_index):
        if not found.equal and found.inexact is None:
            return Found(setup, tuple(operations), found, batches)
    return None


def smallest(found: Found, make_index: Callable[[], Index] = _unlimited) -> Found:
    """A smaller workload with a wrong answer, without the operations that are not needed."""
    improved = True
    while improved:
        improved = False
        for setup, operations in _smaller(found.setup, found.operations):
            smaller = search(setup, operations, make_index)
            if smaller is not None:
                found, improved = smaller, True
                break
    return found


def _smaller(setup: Setup, operations: tuple[Operation, ...]) -> Iterator[tuple[Setup, tuple[Operation, ...]]]:
    for blocks in (setup.blocks // 2, setup.blocks * 3 // 4, setup.blocks - 1):
        yield replace(setup, blocks=blocks), operations
    size = len(operations) // 2
    while size:
        for start in range(0, len(operations), size):
            yield setup, operations[:start] + operations[start + size :]
        size //= 2
    for number, operation in enumerate(operations):
        if isinstance(operation, Serve):
            for simpler in _simpler(operation):
                yield setup, (*operations[:number], simpler, *operations[number + 1 :])


def _simpler(serve: Serve) -> Iterator[Serve]:
    for number, request in enumerate(serve.requests):
        others = serve.requests[:number], serve.requests[number + 1 :]
        if len(serve.requests) > 1:
            yield Serve(others[0] + others[1])
        simpler = []
        if len(request.output) > 1:
            simpler.append(replace(request, output=request.output[:1]))
        if request.lora_name or request.cache_salt or request.reports:
            simpler.append(replace(request, lora_name=None, cache_salt=None, reports=False))
        if len(request.tokens) > 32:
            simpler += [
                replace(request, tokens=request.tokens[: len(request.tokens) // 2]),
                replace(request, tokens=request.tokens[:-16]),
            ]
        for one in simpler:
            yield Serve((*others[0], one, *others[1]))


def described(found: Found) -> Iterator[str]:
    """Describes the workload and its batches, one line each."""
    question = found.answer.question
    yield f"an engine of {found.setup.blocks} blocks: {', '.join(group.kind for group in found.setup.groups)}"
    for operation in found.operations:
        if isinstance(operation, Reset):
            yield "reset of all tiers" if operation.connector else "reset"
            continue
        for request in operation.requests:
            yield (
                f"serve {len(request.tokens)} + {len(request.output)} tokens, first {request.tokens[0]}, "
                f"last {request.tokens[-1]}, lora {request.lora_name}, salt {request.cache_salt}"
                f"{', reports' if request.reports else ''}{', computes all' if request.computes_all else ''}"
            )
    for number, events in enumerate(found.batches):
        yield from (f"  {number}: {_event(event)}" for event in events)
    yield (
        f"{question.name}, {len(question.tokens)} tokens from {question.tokens[0]}: the engine reuses "
        f"{question.reused} ({question.gpu_reused} on the device), the index says {found.answer.found} "
        f"({found.answer.gpu_found}) and claims to be exact"
    )


def _event(event: Event) -> str:
    hashes = [name % 10_000 for name in event.get("block_hashes", ())]
    text = f"{event['type']} {event.get('medium', '')} group {event.get('group_idx')} {hashes}"
    if (parent := event.get("parent_block_hash")) is not None:
        text += f" after {parent % 10_000}"
    return text + (f", {len(event['token_ids'])} tokens" if "token_ids" in event else "")
