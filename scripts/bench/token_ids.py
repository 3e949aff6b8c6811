"""Part 7, continued: what SEND_TOKEN_IDS saves an engine, and what it costs here.

An engine that gets a text tokenizes all of it, each time, with the fast tokenizer of `transformers`; one that gets
token ids reads them. Both are measured in this process, from the bytes of a request of /v1/completions on. The
gateway's own cost is measured by two of them before the same engines, one with the setting and one without.
"""

from __future__ import annotations

import importlib.util
import json
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import msgspec

from scripts.bench.client import drive
from scripts.bench.conversations import conversation
from scripts.bench.gateway import MODEL_DIRS, PART, REAL, cheap_engines
from scripts.bench.gateways import ours
from scripts.bench.plan import Plan
from scripts.bench.results import LeftOut, Measure, Rounds
from scripts.bench.servers import Process
from service.gateway.bodies import with_prompt
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions

_SIZES = (8_000, 32_000)
_TEXTS, _TURNS = 6, 4
_TURN_WORDS = 160
_WORDS_PER_TOKEN = 0.8
_SECONDS = 30.0
_PATH = "/v1/completions"


async def run(plan: Plan) -> AsyncIterator[Measure | LeftOut]:
    """CPU of an engine's tokenizing, and of the gateway, with and without token ids in the request."""
    folder = MODEL_DIRS / REAL
    if importlib.util.find_spec("transformers") is None or not folder.is_dir():
        yield LeftOut(f"SEND_TOKEN_IDS: needs transformers, and {REAL} (KVCACHE_BENCH_MODELS)")
        return
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - takes seconds

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    async with AsyncExitStack() as stack:
        models = Models(PromptOptions(models_dir=MODEL_DIRS))
        stack.push_async_callback(models.close)
        model = await models.get(REAL)
        pods, _ = await stack.enter_async_context(cheap_engines(REAL))
        settings = {"MODELS_DIR": str(MODEL_DIRS)}
        with_ids = {**settings, "SEND_TOKEN_IDS": "true"}
        gateways = {
            "kvcache": await stack.enter_async_context(ours(pods, REAL, **with_ids)),
            "text": await stack.enter_async_context(ours(pods, REAL, **settings)),
        }
        random = Random(9)
        for size in _SIZES:
            rounds = Rounds()
            for counts in plan.turns():
                turns = await _growing_texts(model, size, plan.count(_TEXTS), random)
                figures = _engine(turns[-1], tokenizer)
                for name, gateway in gateways.items():
                    figures[name]["gateway"] = await _gateway(gateway.process, turns)
                    if counts:
                        rounds.add(name, figures[name])
            for figure, what in (("engine", "an engine's reading and tokenizing"), ("gateway", "the gateway")):
                yield rounds.measure(
                    figure,
                    part=PART,
                    what=f"SEND_TOKEN_IDS, {size:,} tokens, CPU of {what}",
                    unit="ms/request",
                    servers=("kvcache", "text"),
                )


async def _growing_texts(model: Model, size: int, count: int, random: Random) -> list[list[tuple[bytes, array[int]]]]:
    """By turn, the bodies of some prompts that grow to about `size` tokens, with their tokens."""
    turns: list[list[tuple[bytes, array[int]]]] = [[] for _ in range(_TURNS + 1)]
    for _ in range(count):
        words = " ".join(
            message["content"] for message in conversation(random.getrandbits(32), 40, size * _WORDS_PER_TOKEN)
        ).split(" ")
        for turn, bodies in enumerate(turns):
            text = " ".join(words[: len(words) - (_TURNS - turn) * _TURN_WORDS])
            tokens = array("I", await model.tokenize(text))
            request = {"model": REAL, "prompt": text, "max_tokens": 16, "seed": len(tokens)}
            bodies.append((msgspec.json.encode(request), tokens))
    return turns


def _engine(bodies: Sequence[tuple[bytes, array[int]]], tokenizer: Any) -> dict[str, dict[str, float]]:
    """CPU milliseconds from the bytes of a request to its tokens, of a request with ids and of one with text."""
    sent = [with_prompt(body, tokens) or b"" for body, tokens in bodies]
    expected = [tokens.tolist() for _, tokens in bodies]
    by_ids = _per_request(lambda body: json.loads(body)["prompt"], sent, expected)
    by_text = _per_request(
        lambda body: tokenizer(json.loads(body)["prompt"])["input_ids"], [body for body, _ in bodies], expected
    )
    return {"kvcache": {"engine": by_ids}, "text": {"engine": by_text}}


def _per_request(read: Callable[[bytes], list[int]], bodies: Sequence[bytes], expected: Sequence[list[int]]) -> float:
    before = time.process_time()
    found = [read(body) for body in bodies]
    used = time.process_time() - before
    assert found == expected  # noqa: S101 - a check of the benchmark itself
    return used / len(bodies) * 1000


async def _gateway(process: Process, turns: Sequence[Sequence[tuple[bytes, array[int]]]]) -> float:
    """CPU milliseconds of the gateway for a next turn."""
    (connection,) = await process.connections(1)
    first, *following = ([connection.post(_PATH, body) for body, _ in bodies] for bodies in turns)
    await drive([connection], [first], _SECONDS)
    before = process.usage.cpu()
    load = await drive([connection], [[request for turn in following for request in turn]], _SECONDS)
    return (process.usage.cpu() - before) / len(load.latencies) * 1000
