"""Runs simulated LLM engines with vLLM's HTTP endpoints, event streams and replay sockets, until Ctrl+C.

They compute nothing: prefill and decoding take time, replies are made up. Prefix caches, cache events and token counts
are those of real engines. `POST /simulation/faults` of an engine makes its next requests fail.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack

from service.commands.command_line import above_zero, parser, positive, seconds
from service.contract.settings import Settings, SettingsError
from service.native.backend import COMPILED
from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.models.catalog import Models
from service.prompts.options import CacheBudget, PromptOptions
from service.simulation.scheduler import Speed
from service.simulation.server import EngineOptions, EngineServer, serving


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _read(arguments)
    try:
        return asyncio.run(_simulate(options, Settings.from_environment(environment)))
    except (SettingsError, OSError, ModelNotFound, ModelUnavailable) as error:
        print(f"simulate: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _read(arguments: list[str]) -> argparse.Namespace:
    command = parser("simulate", __doc__)
    command.add_argument("--pods", type=positive, default=2, metavar="N", help="number of engines (2)")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", type=int, default=8000, help="port of the first engine; 0: any free ports (8000)")
    command.add_argument("--model", default="builtin/demo", help="model whose tokenizer is used (builtin/demo)")
    command.add_argument("--served-model-name", action="append", metavar="NAME", help="name in requests (--model)")
    command.add_argument("--ranks", type=positive, default=1, help="data-parallel ranks of each engine (1)")
    command.add_argument("--blocks", type=positive, default=4096, help="blocks in each rank's cache (4096)")
    command.add_argument("--block-size", type=positive, default=16, help="tokens per block (16)")
    command.add_argument("--prefill-rate", type=above_zero, default=20_000, help="prompt tokens per second (20000)")
    command.add_argument("--decode-time", type=seconds, default=0.01, metavar="TIME", help="time per token (10ms)")
    command.add_argument("--max-running", type=positive, default=16, help="concurrent requests of each rank (16)")
    command.add_argument("--topic", default="kv@{pod}@{model}", help="topic of events (kv@{pod}@{model})")
    command.add_argument("--seed", type=int, default=0, help="seed of block hashes (0)")
    return command.parse_args(arguments)


async def _simulate(options: argparse.Namespace, settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    caches = CacheBudget.of(settings.token_cache_bytes, compiled=COMPILED)
    models = Models(PromptOptions.of(settings, caches), lambda _: True)  # the user of this command is the operator
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        model = await models.get(options.model)
        engines = [
            await stack.enter_async_context(serving(_engine_options(options, number), model))
            for number in range(options.pods)
        ]
        _print(engines)
        await stop.wait()
    return 0


def _engine_options(options: argparse.Namespace, number: int) -> EngineOptions:
    return EngineOptions(
        served_models=options.served_model_name or [options.model],
        host=options.host,
        port=options.port + number if options.port else 0,
        ranks=options.ranks,
        blocks=options.blocks,
        block_size=options.block_size,
        seed=options.seed + number,
        topic=options.topic,
        speed=Speed(options.prefill_rate, options.decode_time, options.max_running),
    )


def _print(engines: list[EngineServer]) -> None:
    for engine in engines:
        print(engine.url)  # noqa: T201
    endpoints = (
        f"{rank.publisher.address},pod={engine.pod},replay={rank.publisher.replay}"
        for engine in engines
        for rank in engine.ranks
    )
    print(f"ZMQ_ENDPOINT={','.join(endpoints)}", flush=True)  # noqa: T201
