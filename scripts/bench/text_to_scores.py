"""Part 1, text → scores: chats over HTTP, turn by turn, with and without the token cache.

Without it, every request is rendered and tokenized from scratch, as in other routers. Each chat is cached on 4 of 8
pods.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import chain as joined
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from scripts.bench.client import Connection, Load, drive
from scripts.bench.conversations import Message, conversation, upto
from scripts.bench.engines import BLOCK_SIZE, Chain, batch, hashes, stored
from scripts.bench.pairs import Fed, engines, held_by
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.servers import ROOT, Kvcache, kvcache

_PODS, _HOLDING = 8, 4
_CONNECTIONS = 16
_TURNS = 8
_SECONDS = 1.0
_ALL = float("inf")
"""Seconds, for requests that are few and must all be sent."""
_MOST_TOKENS = 512_000
"""Of all chats of one connection or one crowd in a round: they have to fit into the caches."""
_LONGEST_SLICE = 5.0
"""Milliseconds of CPU that a turn of the event loop may take."""
_SLICES = ROOT / "scripts" / "attack" / "cpu_slices"
_REAL = "ibm-granite/granite-3.3-2b-instruct"
_TARGETS = {1_000: None, 8_000: 20.0, 32_000: 40.0, 100_000: 100.0}
"""Tokens of a chat → target for the CPU of uncached tokenizing divided by that of the next turn."""


class Chat(NamedTuple):
    """The first request of a chat, its next turns, the last with a message edited in the middle, and its tokens."""

    first: bytes
    turns: Sequence[bytes]
    edited: bytes
    tokens: list[int]


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """CPU and latency of the next turn of chats of 1,000 to 100,000 tokens, CPU of their first request and of an edit.

    Of the longest, also the longest turn of the event loop, in a process of its own.
    """
    models = Path(os.environ.get("KVCACHE_BENCH_MODELS", ROOT.parent / "shared" / "models"))
    model = _REAL if (models / _REAL).is_dir() else "builtin/demo"
    part = f"1 text → scores ({model.rpartition('/')[2]})"
    settings = {"MODEL_NAME": model, "MODELS_DIR": str(models)}
    random = Random(4)
    async with AsyncExitStack() as stack:
        fed = []
        for name, changed in (("kvcache", {}), ("cache off", {"TOKEN_CACHE_BYTES": "0"})):
            own = stack.enter_context(engines(_PODS))
            server = await stack.enter_async_context(kvcache(own, model, name, **settings, **changed))
            for engine in own:
                engine.wait_for_subscriber()
            fed.append(Fed(server, own))
        for tokens, target in _TARGETS.items():
            rounds = Rounds()
            crowd = max(2, min(plan.count(_CONNECTIONS), _MOST_TOKENS // tokens))
            writer = await Writer.start(fed[-1].server, tokens, random)
            for counts in plan.turns():
                one_by_one = [await writer.chat() for _ in range(min(plan.count(_CONNECTIONS), crowd))]
                at_once = [await writer.chat() for _ in range(crowd)]
                for pair in fed:
                    await _cache(pair, [*one_by_one, *at_once], random)
                    figures = await _round(pair.server, one_by_one, at_once, plan.seconds(_SECONDS))
                    if counts:
                        rounds.add(pair.server.name, figures)
                await _agree([pair.server for pair in fed], one_by_one[0])
            for measure in _measures(rounds, part, f"{tokens:,} tokens", crowd, target):
                yield measure
        chats = [await writer.chat() for _ in range(3)]
    yield await _longest_slice(part, f"{tokens:,} tokens", model, settings, chats)


async def _longest_slice(
    part: str, size: str, model: str, settings: Mapping[str, str], chats: Sequence[Chat]
) -> Measure:
    rounds = Rounds()
    with TemporaryDirectory() as folder:
        slices = Path(folder) / "slices"
        paths = os.pathsep.join((str(_SLICES), os.environ.get("PYTHONPATH", "")))
        async with kvcache((), model, **settings, PYTHONPATH=paths, CPU_SLICES=str(slices)) as server:
            (connection,) = await server.connections(1)
            for number, chat in enumerate(chats):
                slices.write_text("0", encoding="utf-8")
                for request in (chat.first, *chat.turns, chat.edited):
                    await connection.send(request)
                if number:
                    longest = float(slices.read_text(encoding="utf-8").partition(" ")[0])
                    rounds.add("kvcache", {"slice": longest * 1000})
    what = f"{size}, longest turn of the event loop above {_LONGEST_SLICE:g} ms, CPU"
    return rounds.measure("slice", part=part, what=what, unit="ms", most=_LONGEST_SLICE)


def _measures(rounds: Rounds, part: str, size: str, crowd: int, target: float | None) -> list[Measure]:
    turn = f"{size}, next turn"
    return [
        *(
            rounds.measure(
                f"{figure} {connections}",
                part=part,
                what=f"{turn}, {figure}, {connections} connection{'s' * (connections > 1)}",
                unit="ms/request" if figure == "CPU" else "ms",
                least_ratio=target if figure == "CPU" else None,
            )
            for figure in ("CPU", "p50", "p99")
            for connections in (1, crowd)
        ),
        rounds.measure("rate", part=part, what=f"{turn}, per core", unit="requests/s", more_is_better=True),
        rounds.measure("first", part=part, what=f"{size}, first sight, CPU", unit="ms/request"),
        rounds.measure("edited", part=part, what=f"{size}, a message edited in the middle, CPU", unit="ms/request"),
    ]


class Writer:
    """Makes random chats that have about `tokens` tokens in the middle of the requested turns."""

    def __init__(self, server: Kvcache, connection: Connection, tokens: int, random: Random) -> None:
        turn = max(100, tokens // 40)
        self._server = server
        self._connection = connection
        self._random = random
        self._tokens = tokens + turn * _TURNS // 2
        self._turns = round(self._tokens * 0.85 / turn)
        self._words = float(self._tokens)

    @classmethod
    async def start(cls, server: Kvcache, tokens: int, random: Random) -> Writer:
        """`server` tokenizes the chats; it must have no cache, or it would already know them when measured."""
        (connection,) = await server.connections(1)
        writer = cls(server, connection, tokens, random)
        for _ in range(2):
            written = await writer.chat()
            writer._words *= writer._tokens / len(written.tokens)
        return writer

    async def chat(self) -> Chat:
        messages = conversation(self._random.getrandbits(32), self._turns, self._words)
        asked = [self._request(upto(messages, turn)) for turn in range(self._turns - _TURNS - 1, self._turns)]
        answer = await self._server.post("/tokenize", msgspec.json.encode({"messages": messages}))
        middle = messages[len(messages) // 2]
        changed = [
            {**message, "content": f"Well: {message['content']}"} if message is middle else message
            for message in messages
        ]
        return Chat(asked[0], asked[1:], self._request(changed), answer["tokens"])

    def _request(self, messages: list[Message]) -> bytes:
        return self._connection.post("/score", msgspec.json.encode({"messages": messages}))


async def _cache(fed: Fed[Kvcache], chats: Sequence[Chat], random: Random) -> None:
    wholes = [chat.tokens[: len(chat.tokens) // BLOCK_SIZE * BLOCK_SIZE] for chat in chats]
    for engine in fed.engines[:_HOLDING]:
        for whole in wholes:
            engine.publish(batch(stored(Chain(hashes(random, len(whole) // BLOCK_SIZE), whole))))
    for whole in wholes:
        await held_by(fed.server, whole[:BLOCK_SIZE], _HOLDING)


async def _round(
    server: Kvcache, one_by_one: Sequence[Chat], at_once: Sequence[Chat], seconds: float
) -> dict[str, float]:
    single, crowd = await server.connections(1), await server.connections(len(at_once))
    first, _ = await _driven(server, single, [[chat.first for chat in one_by_one]], _ALL)
    alone, one = await _driven(
        server, single, [joined(*zip(*(chat.turns for chat in one_by_one), strict=True))], seconds
    )
    edited, _ = await _driven(server, single, [[chat.edited for chat in one_by_one]], _ALL)
    await drive(crowd, [[chat.first] for chat in at_once], _ALL)
    together, many = await _driven(server, crowd, [chat.turns for chat in at_once], seconds)
    return {
        "first": first,
        "edited": edited,
        "CPU 1": alone,
        f"CPU {len(crowd)}": together,
        "rate": 1000 / together,
        **{f"p{percent} 1": one.percentile(percent) for percent in (50, 99)},
        **{f"p{percent} {len(crowd)}": many.percentile(percent) for percent in (50, 99)},
    }


async def _driven(
    server: Kvcache, connections: Sequence[Connection], requests: Sequence[Iterable[bytes]], seconds: float
) -> tuple[float, Load]:
    """Sends the requests; returns CPU milliseconds per request, and the client's measurements of the load."""
    before = server.usage.cpu()
    load = await drive(connections, requests, seconds)
    return (server.usage.cpu() - before) / len(load.latencies) * 1000, load


async def _agree(servers: Sequence[Kvcache], chat: Chat) -> None:
    """Raises RuntimeError if the servers answer differently, or without a pod."""
    answers = [await (await server.connections(1))[0].send(chat.turns[-1]) for server in servers]
    if len(set(answers)) > 1 or not msgspec.json.decode(answers[0]):
        raise RuntimeError(f"with and without the token cache: {b' '.join(answers)[:2000].decode()}")
