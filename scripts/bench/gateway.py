"""Part 7, gateway: what taking a request to an engine costs, beside other gateways before the same engines.

Engines answer at once (`cheap_engine`), so that the gateway is what is measured: CPU by its processes' own accounting,
and latency beyond that of an engine asked directly. A chat's first request is its first sight; its next turns follow.
kvcache knows from events that two of the four engines hold the chats, and looks them up whole; a peer that follows
events knows of none, which costs it less.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain as joined
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from scripts.bench.client import Connection, Load, connect, drive
from scripts.bench.conversations import conversation, upto
from scripts.bench.engines import BLOCK_SIZE, Chain, Engine, batch, hashes, stored
from scripts.bench.gateways import PEERS, Gateway, Pod, gateways, installed, ours
from scripts.bench.pairs import engines
from scripts.bench.plan import Plan
from scripts.bench.results import LeftOut, Measure, Rounds
from scripts.bench.servers import ROOT
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.simulation.prompts import chat_tokens

PART = "7 gateway"
_PODS, _HOLDING = 4, 2
_CHATS, _CONNECTIONS = 12, 16
_TURNS = 4
_STREAMS, _CHUNKS = 16, 200
_AGENT_STREAMS, _AGENT_CHUNKS = 16, 1000
_AGENT_TOKENS = 100_000
_INTERVAL = "50ms"
_IDLE_SECONDS = 2.0
_SECONDS = 30.0
_MEASURED_TURN = 200
"""Latency is measured for turns of this size."""
_LEAST_MS = 0.001
_PATH = "/v1/chat/completions"
REAL = "ibm-granite/granite-3.3-2b-instruct"
MODEL_DIRS = Path(os.environ.get("KVCACHE_BENCH_MODELS", ROOT.parent / "shared" / "models"))
_SMG = "smg cache_aware"
# llm-d sizes its picker at 0.5 to 1 core per request/s of such turns, and 7 cores of Envoy per 100 requests/s.
_LLM_D_MS = 500 + 70
_AGENT_MOST_MS = _LLM_D_MS / 50


class Size(NamedTuple):
    """Tokens of a chat and of a turn, with the targets: CPU ratios to peers, and the added latency in milliseconds."""

    tokens: int
    turn: int
    by_events: float | None = None
    by_text: float | None = None
    added: float | None = None


SIZES = (
    Size(1_000, 200),
    Size(8_000, 200, by_events=8, by_text=1, added=0.8),
    Size(8_000, 700),
    Size(32_000, 200, by_events=10, by_text=1, added=1.2),
    Size(32_000, 700),
    Size(_AGENT_TOKENS, 700),
)


class Chat(NamedTuple):
    """The bodies of a chat's first request and of its next turns, and the tokens of the last turn."""

    first: bytes
    turns: Sequence[bytes]
    tokens: Sequence[int]


class Measured(NamedTuple):
    """Everything that is running: the gateways, an engine to ask directly, and the engines' events."""

    gateways: Sequence[Gateway]
    direct: Connection
    pods: Sequence[Pod]
    publishers: Sequence[Engine]
    random: Random

    @property
    def peers(self) -> Sequence[str]:
        """The names of the other gateways; an empty one if there are none."""
        return [gateway.name for gateway in self.gateways[1:]] or [""]


async def run(plan: Plan) -> AsyncIterator[Measure | LeftOut]:
    """CPU of a request by size of the chat, of a chunk, and when idle; added latency; memory."""
    for peer in PEERS:
        if not installed(peer):
            yield LeftOut(f"{peer.name}: not installed (KVCACHE_BENCH_PEERS)")
    name = REAL if (MODEL_DIRS / REAL).is_dir() else "builtin/demo"
    async with AsyncExitStack() as stack:
        models = Models(PromptOptions(models_dir=MODEL_DIRS))
        stack.push_async_callback(models.close)
        measured = await stack.enter_async_context(_started(name))
        writer = Writer(await models.get(name), name, Random(7))
        at_start = {gateway.name: gateway.process.usage.memory() for gateway in measured.gateways}
        for size in SIZES:
            for measure in await _sized(plan, measured, writer, size):
                yield measure
        for measure in await _chunks(plan, measured, writer):
            yield measure
        for measure in await _resting(measured, at_start):
            yield measure
        settings = {"MODELS_DIR": str(MODEL_DIRS), "STREAM_INTERVAL": _INTERVAL}
        collecting = await stack.enter_async_context(ours(measured.pods, name, **settings))
        for measure in await _agents(plan, measured, collecting, writer):
            yield measure


@asynccontextmanager
async def cheap_engines(model: str) -> AsyncIterator[tuple[Sequence[Pod], Sequence[Engine]]]:
    """Runs engines that answer at once; gives them as pods, and what publishes their events."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.bench.cheap_engine", model, str(_PODS), str(MODEL_DIRS)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        ports = [int(port) for port in (await process.stdout.readline()).split()]
        with engines(_PODS) as publishers:
            yield [Pod(port, publisher.address) for port, publisher in zip(ports, publishers, strict=True)], publishers
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _started(model: str) -> AsyncIterator[Measured]:
    async with (
        cheap_engines(model) as (pods, publishers),
        gateways(pods, model, MODELS_DIR=str(MODEL_DIRS)) as running,
    ):
        measured = Measured(running, await connect(pods[0].port), pods, publishers, Random(8))
        await _subscribed(measured)
        yield measured


async def _subscribed(measured: Measured) -> None:
    """Waits until kvcache hears every engine."""
    block = Chain([1], list(range(1, BLOCK_SIZE + 1)))
    while await _holders(measured, block.tokens) < _PODS:
        for publisher in measured.publishers:
            publisher.publish(batch(stored(block)))
        await asyncio.sleep(0.05)


async def _holders(measured: Measured, tokens: Sequence[int]) -> int:
    """How many engines hold the tokens, says kvcache."""
    return len(await measured.gateways[0].process.post("/score", msgspec.json.encode({"prompt": tokens})) or ())


class Writer:
    """Makes random chats."""

    def __init__(self, model: Model, name: str, random: Random) -> None:
        self._model = model
        self._name = name
        self._random = random
        self._words_per_token = 0.8

    async def chat(self, size: Size) -> Chat:
        """A chat that has about `size.tokens` tokens in the middle of its turns, of `size.turn` tokens each."""
        total = size.tokens + size.turn * _TURNS // 2
        turns = max(_TURNS + 1, round(total * 0.85 / size.turn))
        messages = conversation(self._random.getrandbits(32), turns, total * self._words_per_token)
        bodies = [await self.body(upto(messages, turn)) for turn in range(turns - _TURNS - 1, turns)]
        tokens = await chat_tokens({"messages": messages}, self._model)
        self._words_per_token *= (1 + total / len(tokens)) / 2
        return Chat(bodies[0], bodies[1:], tokens)

    async def body(self, messages: Sequence[dict[str, str]], **fields: object) -> bytes:
        """A request; its `seed` is the number of its tokens."""
        seed = len(await chat_tokens({"messages": messages}, self._model))
        given = {"model": self._name, "messages": messages, "max_tokens": 16, "seed": seed}
        return msgspec.json.encode({**given, **fields})


async def _sized(plan: Plan, measured: Measured, writer: Writer, size: Size) -> list[Measure]:
    rounds = Rounds()
    crowd = max(2, plan.count(_CONNECTIONS))
    chats = plan.count(_CHATS if size.tokens < _AGENT_TOKENS else _CHATS // 3)
    await writer.chat(size)  # learns how many tokens a word has
    for counts in plan.turns():
        alone = [await writer.chat(size) for _ in range(chats)]
        together = [await writer.chat(size) for _ in range(crowd)]
        await _hold(measured, [*alone, *together])
        direct = await drive([measured.direct], [list(_turns(measured.direct, alone))], _SECONDS)
        for gateway in measured.gateways:
            figures = await _round(gateway, alone, together, direct)
            if counts:
                rounds.add(gateway.name, figures)
    return list(_measures(rounds, measured, size, crowd))


def _turns(connection: Connection, chats: Iterable[Chat]) -> Iterator[bytes]:
    """All chats' second requests, then all third ones, …"""
    return (connection.post(_PATH, turn) for turn in joined(*zip(*(chat.turns for chat in chats), strict=True)))


async def _hold(measured: Measured, chats: Sequence[Chat]) -> None:
    """Tells kvcache that some engines hold the chats, and waits until it knows."""
    for chat in chats:
        whole = list(chat.tokens[: len(chat.tokens) // BLOCK_SIZE * BLOCK_SIZE])
        for publisher in measured.publishers[:_HOLDING]:
            publisher.publish(batch(stored(Chain(hashes(measured.random, len(whole) // BLOCK_SIZE), whole))))
    for chat in chats:
        ends = time.monotonic() + _SECONDS
        while await _holders(measured, list(chat.tokens[:BLOCK_SIZE])) < _HOLDING:
            if time.monotonic() > ends:
                raise TimeoutError("kvcache does not hear of a chat")
            await asyncio.sleep(0.02)


async def _round(gateway: Gateway, alone: Sequence[Chat], together: Sequence[Chat], direct: Load) -> dict[str, float]:
    crowd = await gateway.process.connections(len(together))
    single = crowd[:1]
    first, _ = await _driven(gateway, single, [[single[0].post(_PATH, chat.first) for chat in alone]])
    cpu, one = await _driven(gateway, single, [list(_turns(single[0], alone))])
    await drive(crowd, [[single[0].post(_PATH, chat.first)] for chat in together], _SECONDS)
    requests = [[single[0].post(_PATH, turn) for turn in chat.turns] for chat in together]
    cpu_crowd, many = await _driven(gateway, crowd, requests)
    return {
        "first": first,
        "CPU 1": cpu,
        "CPU n": cpu_crowd,
        "added": max(_LEAST_MS, one.percentile(50) - direct.percentile(50)),
        **{f"p{percent} 1": one.percentile(percent) for percent in (50, 99)},
        **{f"p{percent} n": many.percentile(percent) for percent in (50, 99)},
    }


async def _driven(
    gateway: Gateway, connections: Sequence[Connection], requests: Sequence[Sequence[bytes]]
) -> tuple[float, Load]:
    """Sends the requests; returns CPU milliseconds per request, and the client's measurements."""
    before = gateway.process.usage.cpu()
    load = await drive(connections, requests, _SECONDS)
    return (gateway.process.usage.cpu() - before) / len(load.latencies) * 1000, load


def _measures(rounds: Rounds, measured: Measured, size: Size, crowd: int) -> Iterator[Measure]:
    what = f"{size.tokens:,} tokens, turns of {size.turn}"
    follow_events = {gateway.name for gateway in measured.gateways if gateway.follows_events}
    for name in measured.peers:
        cpu = first = None
        if name in follow_events and size.by_events:
            cpu, first = size.by_events, 2.0
        elif name == _SMG:
            cpu = size.by_text
        for figure, text, target in (
            ("CPU 1", f"{what}, CPU, 1 connection", cpu),
            ("CPU n", f"{what}, CPU, {crowd} connections", None),
            ("first", f"{what}, first sight, CPU", first),
        ):
            yield rounds.measure(
                figure, part=PART, what=text, unit="ms/request", servers=("kvcache", name), least_ratio=target
            )
    if size.turn != _MEASURED_TURN:
        return
    yield rounds.measure(
        "added",
        part=PART,
        what=f"{what}, added p50, 1 connection",
        unit="ms",
        servers=("kvcache", ""),
        most=size.added,
    )
    for connections, figure in ((1, "1"), (crowd, "n")):
        for percent in (50, 99):
            for name in measured.peers:
                yield rounds.measure(
                    f"p{percent} {figure}",
                    part=PART,
                    what=f"{what}, p{percent}, {connections} connection{'s' * (connections > 1)}",
                    unit="ms",
                    servers=("kvcache", name),
                )


async def _chunks(plan: Plan, measured: Measured, writer: Writer) -> list[Measure]:
    """CPU of a chunk of a stream, with that of its request, which is small."""
    body = await writer.body([{"role": "user", "content": "Hello"}], stream=True, max_tokens=_CHUNKS)
    rounds = Rounds()
    for counts in plan.turns():
        for gateway in measured.gateways:
            connections = await gateway.process.connections(_STREAMS)
            used, _ = await _driven(gateway, connections, [[connections[0].post(_PATH, body)]] * _STREAMS)
            if counts:
                rounds.add(gateway.name, {"cpu": used * 1000 / _CHUNKS})
    return [
        rounds.measure(
            "cpu",
            part=PART,
            what=f"a chunk, {_STREAMS} streams of {_CHUNKS}, CPU",
            unit="µs",
            servers=("kvcache", peer),
            least_ratio=1.0 if peer == _SMG else None,
        )
        for peer in measured.peers
    ]


async def _agents(plan: Plan, measured: Measured, collecting: Gateway, writer: Writer) -> list[Measure]:
    """CPU of an agent's next turn after a long context, with its streamed answer; `collecting` has an interval."""
    rounds = Rounds()
    gateways = {"kvcache": measured.gateways[0], "collecting": collecting}
    for counts in plan.turns():
        chats = [await writer.chat(Size(_AGENT_TOKENS, 700)) for _ in range(_AGENT_STREAMS)]
        await _hold(measured, chats)
        streamed = [
            msgspec.json.encode({**msgspec.json.decode(chat.turns[0]), "stream": True, "max_tokens": _AGENT_CHUNKS})
            for chat in chats
        ]
        for name, gateway in gateways.items():
            connections = await gateway.process.connections(_AGENT_STREAMS)
            post = connections[0].post
            await drive(connections, [[post(_PATH, chat.first)] for chat in chats], _SECONDS)
            used, _ = await _driven(gateway, connections, [[post(_PATH, body)] for body in streamed])
            if counts:
                rounds.add(name, {f"{name} cpu": used})
    what = f"{_AGENT_TOKENS:,} tokens, next turn with {_AGENT_CHUNKS:,} chunks"
    return [
        rounds.measure(
            f"{name} cpu",
            part=PART,
            what=f"{what}{setting}, CPU",
            unit="ms/request",
            servers=(name, ""),
            most=_AGENT_MOST_MS,
        )
        for name, setting in (("kvcache", ""), ("collecting", f", STREAM_INTERVAL={_INTERVAL}"))
    ]


async def _resting(measured: Measured, at_start: dict[str, int]) -> list[Measure]:
    """CPU of all gateways without requests, in the same seconds, and their memory."""
    rounds = Rounds()
    before = [gateway.process.usage.cpu() for gateway in measured.gateways]
    await asyncio.sleep(_IDLE_SECONDS)
    for gateway, used in zip(measured.gateways, before, strict=True):
        usage = gateway.process.usage
        figures = {"idle": (usage.cpu() - used) / _IDLE_SECONDS * 100, "memory": usage.memory() / (1 << 20)}
        rounds.add(gateway.name, {**figures, "start": at_start[gateway.name] / (1 << 20)})
    return [
        rounds.measure(figure, part=PART, what=what, unit=unit, servers=("kvcache", peer))
        for figure, what, unit in (
            ("idle", "idle, CPU", "% of a core"),
            ("start", "memory at start", "MiB"),
            ("memory", "memory after the load", "MiB"),
        )
        for peer in measured.peers
    ]
