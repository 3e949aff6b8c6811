#!/usr/bin/env python3
"""CPU time of rendering a conversation's last turn by each renderer, with and without the earlier turns in the cache.

Prints a line per renderer: CPU milliseconds of all threads, medians over several conversations.

  anew   rendering without a cache
  next   rendering after the previous turn was rendered
  ratio  anew / next

The renderer `engine` is asked over HTTP, of a simulated engine in this process, whose time counts: `next` is the same
request again, since an engine's tokens are remembered for whole requests only.

Usage: scripts/bench/renderers.py [--models-dir FOLDER] [--turns N] [--words N] [--conversations N]

FOLDER may hold openai/gpt-oss-20b (harmony) and mistralai/Mistral-Nemo-Instruct-2407 (mistral); others are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.bench.conversations import conversation, upto  # noqa: E402 - after the checkout is on the path
from service.index.base import TokenIds  # noqa: E402
from service.prompts.chat import Chat  # noqa: E402
from service.prompts.models.catalog import Models  # noqa: E402
from service.prompts.options import PromptOptions  # noqa: E402
from service.prompts.renderers.engine import EngineRenderer  # noqa: E402
from service.prompts.renderers.engine_api import EngineApi  # noqa: E402
from service.simulation.server import EngineOptions, serving  # noqa: E402

BUILTIN = "builtin/demo"
MODELS = (BUILTIN, "openai/gpt-oss-20b", "mistralai/Mistral-Nemo-Instruct-2407")
ENGINE_SECONDS = 60.0


async def timed(rendering: Awaitable[TokenIds]) -> tuple[float, int]:
    """CPU milliseconds of a rendering that has not begun, and the number of tokens."""
    started = time.process_time()
    tokens = await rendering
    return (time.process_time() - started) * 1000, len(tokens)


async def own(name: str, arguments: argparse.Namespace) -> tuple[str, int, float, float]:
    """One of our own renderers: its name, tokens of the last turn, `anew` and `next`."""
    cached = Models(PromptOptions(models_dir=arguments.models_dir))
    bare = Models(PromptOptions(models_dir=arguments.models_dir, token_cache_bytes=0))
    model, without = await cached.get(name), await bare.get(name)
    anew, following, tokens = [], [], 0
    for seed in range(arguments.conversations):
        messages = conversation(seed, arguments.turns, arguments.words)
        for turn in range(arguments.turns):
            chat = Chat(messages=upto(messages, turn))
            milliseconds, tokens = await timed(_tokens(model.render(chat)))
        following.append(milliseconds)
        await without.render(chat)  # warms everything but the cache
        anew.append((await timed(_tokens(without.render(chat))))[0])
    await cached.close()
    await bare.close()
    return model.renderer_name, tokens, statistics.median(anew), statistics.median(following)


async def engine(arguments: argparse.Namespace) -> tuple[str, int, float, float]:
    """The renderer `engine`, asking a simulated engine."""
    models = Models(PromptOptions())
    model = await models.get(BUILTIN)
    anew, again, tokens = [], [], 0
    async with serving(EngineOptions([BUILTIN]), model) as server, aiohttp.ClientSession() as session:
        renderer, apis = EngineRenderer(ENGINE_SECONDS), [EngineApi(session, server.url)]
        for seed in range(arguments.conversations):
            messages = conversation(seed, arguments.turns, arguments.words)
            chat = Chat(messages=upto(messages, arguments.turns - 1))
            milliseconds, tokens = await timed(_tokens(renderer.chat(apis, BUILTIN, chat)))
            anew.append(milliseconds)
            again.append((await timed(_tokens(renderer.chat(apis, BUILTIN, chat))))[0])
    await models.close()
    return "engine", tokens, statistics.median(anew), statistics.median(again)


async def _tokens(rendering: Awaitable[object]) -> TokenIds:
    tokens: TokenIds = (await rendering).tokens  # type: ignore[attr-defined] # Rendered or EngineRendered
    return tokens


async def run(arguments: argparse.Namespace) -> None:
    print(f"{'renderer':9} {'tokens':>7} {'anew':>9} {'next':>8} {'ratio':>7}")
    for name in MODELS:
        if name == BUILTIN or (arguments.models_dir / name).is_dir():
            show(*await own(name, arguments))
    show(*await engine(arguments))


def show(name: str, tokens: int, anew: float, following: float) -> None:
    print(f"{name:9} {tokens:7} {anew:9.3f} {following:8.3f} {anew / following:7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=PromptOptions().models_dir)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--words", type=int, default=6000)
    parser.add_argument("--conversations", type=int, default=5)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
