"""Part 8, quality: what the choice of an engine is worth, beside other gateways before the same simulated engines.

Four engines with caches small enough that placement matters; chats of several users that grow to up to 8,000 tokens
and start anew. At low load, requests come at random moments; at high load, every user asks again at once. All
gateways are started anew before empty caches, and get the same chats. Engines wait instead of computing: 10,000
tokens of uncached prompt a second, 10 ms for each generated token.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import NamedTuple, TypeAlias

import aiohttp

from scripts.bench.conversations import WORDS
from scripts.bench.gateways import PEERS, Gateway, Pod, installed, ours, theirs
from scripts.bench.plan import Plan
from scripts.bench.results import LeftOut, Measure, Rounds
from scripts.bench.servers import ROOT

PART = "8 quality"
MODEL = "builtin/demo"
_ENGINES, _BLOCKS = 4, 5_000
_SPEED = ("--prefill-rate", "10000", "--decode-time", "10ms", "--max-running", "16")
_SECONDS, _LEAST_SECONDS, _WARM_SHARE = 15.0, 3.0, 0.25
_LOW_USERS, _LOW_RATE = 24, 8.0
_HIGH_USERS = 48
_SYSTEMS, _SYSTEM_WORDS, _TURN_WORDS, _TURNS = 3, 400, 400, 12
_MAX_TOKENS = 12
_LOADS = (f"{_LOW_RATE:g} requests/s", f"{_HIGH_USERS} users at once")
_SEEDS = 2
_TTFTS = ("p50", "p90", "p99", "mean")
_COUNTER = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} (\S+)$", re.MULTILINE)
_CONTENT = re.compile(r'"content":\s*"([^"\\]*)"')

Ask: TypeAlias = Callable[["User"], Awaitable[None]]
Start: TypeAlias = Callable[[Sequence[Pod], str], AbstractAsyncContextManager[Gateway]]


class Counted(NamedTuple):
    """Prompt tokens of each engine, and those that it reused, so far."""

    queries: list[float]
    hits: list[float]


@dataclass
class Outcome:
    """Times to the first token in milliseconds, and failed requests, after the warm-up."""

    begins: float
    times: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def run(plan: Plan) -> AsyncIterator[Measure | LeftOut]:
    """Prefix hit rate, times to first token, the busiest engine's share and answered requests, at low and high load."""
    starts: dict[str, Start] = {"kvcache": ours}
    for peer in PEERS:
        if installed(peer):
            starts[peer.name] = partial(theirs, peer)
        else:
            yield LeftOut(f"{peer.name}: not installed (KVCACHE_BENCH_PEERS)")
    async with _engines() as pods:
        for load in _LOADS:
            rounds = Rounds()
            for seed in range(min(_SEEDS, plan.rounds)):
                for name, start in starts.items():
                    seconds = max(plan.seconds(_SECONDS), _LEAST_SECONDS)  # in less time, no chat grows
                    rounds.add(name, await _played(start, pods, load, seed, seconds))
            for peer_name in list(starts)[1:] or [""]:
                for measure in _measures(rounds, load, peer_name):
                    yield measure


def _measures(rounds: Rounds, load: str, peer: str) -> list[Measure]:
    pair = ("kvcache", peer)
    return [
        rounds.measure(
            "hits",
            part=PART,
            what=f"{load}, prefix hit rate",
            unit="%",
            servers=pair,
            more_is_better=True,
            least_ratio=0.985,
        ),
        *(
            rounds.measure(
                figure,
                part=PART,
                what=f"{load}, time to first token, {figure}",
                unit="ms",
                servers=pair,
                least_ratio=1.0 if figure in {"p99", "mean"} else None,
            )
            for figure in _TTFTS
        ),
        rounds.measure("busiest", part=PART, what=f"{load}, share of the busiest engine", unit="%", servers=pair),
        rounds.measure(
            "rate", part=PART, what=f"{load}, answered", unit="requests/s", servers=pair, more_is_better=True
        ),
        rounds.measure("ok", part=PART, what=f"{load}, without error", unit="%", servers=pair, more_is_better=True),
    ]


@asynccontextmanager
async def _engines() -> AsyncIterator[list[Pod]]:
    """Runs simulated engines, each a process, which publish under an empty topic as vllm-router needs it."""
    async with AsyncExitStack() as stack:
        pods = []
        for number in range(_ENGINES):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", "simulate", "--pods", "1", "--port", "0", "--topic", ""),
                *("--model", MODEL, "--blocks", str(_BLOCKS), "--seed", str(number), *_SPEED),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(_end, process)
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            url = (await process.stdout.readline()).decode().strip()
            endpoint = (await process.stdout.readline()).decode().removeprefix("ZMQ_ENDPOINT=")
            pods.append(Pod(int(url.rpartition(":")[2]), endpoint.partition(",")[0]))
        yield pods


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    await process.wait()


async def _played(start: Start, pods: Sequence[Pod], load: str, seed: int, seconds: float) -> dict[str, float]:
    """Plays a load through a gateway that has just started, before empty caches."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as client:
        for pod in pods:
            (await client.post(f"{pod.url}/reset_prefix_cache")).release()
        async with start(pods, MODEL) as gateway:
            began = time.perf_counter()
            outcome = Outcome(began + seconds * _WARM_SHARE)
            ask = partial(_ask, client, f"http://127.0.0.1:{gateway.process.port}/v1/chat/completions", outcome)
            before = asyncio.create_task(_counted_at(outcome.begins, client, pods))
            play = _play_at_once if load == _LOADS[1] else _play_at_random
            await play(ask, Random(seed), began + seconds)
            first, last = await before, await _counted(client, pods)
            lasted = time.perf_counter() - outcome.begins
    queries = [after - earlier for after, earlier in zip(last.queries, first.queries, strict=True)]
    hits = sum(last.hits) - sum(first.hits)
    return {
        "hits": 100 * hits / sum(queries),
        **{f"p{percent}": outcome.percentile(percent) for percent in (50, 90, 99)},
        "mean": sum(outcome.times) / len(outcome.times),
        "busiest": 100 * max(queries) / sum(queries),
        "rate": len(outcome.times) / lasted,
        "ok": 100 * len(outcome.times) / (len(outcome.times) + outcome.failed),
    }


class User:
    """Asks one question after the other; a chat that is long enough is followed by a new one."""

    def __init__(self, random: Random, systems: Sequence[str]) -> None:
        self._random = random
        self._systems = systems
        self._begin()

    def _begin(self) -> None:
        self._turns = self._random.randrange(_TURNS // 3, _TURNS + 1)
        self.messages = [{"role": "system", "content": self._random.choice(self._systems)}]

    def question(self) -> list[dict[str, str]]:
        """The messages of the next request."""
        if len(self.messages) > 2 * self._turns:
            self._begin()
        words = self._random.randrange(_TURN_WORDS // 2, _TURN_WORDS * 3 // 2)
        self.messages.append({"role": "user", "content": _prose(self._random, words)})
        return self.messages

    def answered(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})


def _users(random: Random, count: int) -> list[User]:
    systems = [_prose(random, _SYSTEM_WORDS) for _ in range(_SYSTEMS)]
    return [User(Random(random.getrandbits(32)), systems) for _ in range(count)]


def _prose(random: Random, words: int) -> str:
    start = random.randrange(len(WORDS))
    return f"{random.getrandbits(32):x} " + " ".join(WORDS[(start + number) % len(WORDS)] for number in range(words))


async def _play_at_once(ask: Ask, random: Random, ends: float) -> None:
    async def one(user: User) -> None:
        while time.perf_counter() < ends:
            await ask(user)

    async with asyncio.TaskGroup() as group:
        for user in _users(random, _HIGH_USERS):
            group.create_task(one(user))


async def _play_at_random(ask: Ask, random: Random, ends: float) -> None:
    idle = _users(random, _LOW_USERS)

    async def one(user: User) -> None:
        await ask(user)
        idle.append(user)

    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while (due := due + random.expovariate(_LOW_RATE)) < ends:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if idle:
                group.create_task(one(idle.pop(random.randrange(len(idle)))))


async def _ask(client: aiohttp.ClientSession, url: str, outcome: Outcome, user: User) -> None:
    """Streams an answer and notes when its first token comes. A failed question is not part of the chat."""
    body = {"model": MODEL, "messages": user.question(), "max_tokens": _MAX_TOKENS, "stream": True}
    sent = time.perf_counter()
    first = None
    received = b""
    try:
        async with client.post(url, json=body) as response:
            response.raise_for_status()
            async for piece in response.content.iter_any():
                first = first or time.perf_counter()
                received += piece
    except (aiohttp.ClientError, TimeoutError):
        first = None
    if first is None or not received.endswith(b"data: [DONE]\n\n"):
        user.messages.pop()
        outcome.failed += sent > outcome.begins
        return
    user.answered("".join(_CONTENT.findall(received.decode())))
    if sent > outcome.begins:
        outcome.times.append((first - sent) * 1000)


async def _counted_at(moment: float, client: aiohttp.ClientSession, pods: Sequence[Pod]) -> Counted:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))
    return await _counted(client, pods)


async def _counted(client: aiohttp.ClientSession, pods: Sequence[Pod]) -> Counted:
    counted = Counted([], [])
    for pod in pods:
        async with client.get(f"{pod.url}/metrics") as response:
            found = dict(_COUNTER.findall(await response.text()))
        counted.queries.append(float(found["queries"]))
        counted.hits.append(float(found["hits"]))
    return counted
