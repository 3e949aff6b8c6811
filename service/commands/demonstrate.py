"""Plays seeded conversations through the gateway of a running service, whose fleet gets simulated engines meanwhile.

The same requests also go round robin and at random to further engines. Writes a JSON object per line: `begin`, a
`request` for each, `end`. Exit code 1 if a prediction of the service differs from an engine.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress

from service.commands.command_line import above_zero, parser, positive, seconds
from service.contract.demo_lines import Ended, Line, Started, write_line
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.simulation.chat_client import ChatClient, ChatRefused
from service.simulation.conversations import Conversations
from service.simulation.demonstration import Demonstration, Limits
from service.simulation.policies import at_random, cache_aware, round_robin
from service.simulation.scheduler import Speed
from service.simulation.server import EngineOptions, EngineServer, serving
from service.simulation.service_client import ServiceClient, ServiceError

MODEL = "builtin/demo"
_SUBSCRIBE_SECONDS = 20.0
_CONVERSATIONS_PER_POD = 4


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _read(arguments, environment)
    try:
        return asyncio.run(_demonstrate(options))
    except ChatRefused as error:
        print(f"{error}: give the engines more (--blocks)", file=sys.stderr)  # noqa: T201
        return 1
    except (ServiceError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


def _read(arguments: list[str], environment: Mapping[str, str]) -> argparse.Namespace:
    command = parser("demonstrate", __doc__)
    command.add_argument(
        "--url", default=f"http://127.0.0.1:{environment.get('HTTP_PORT', 8080)}", help="address of the service"
    )
    command.add_argument("--pods", type=positive, default=2, metavar="N", help="number of engines (2)")
    command.add_argument("--blocks", type=positive, default=256, help="blocks in each engine's cache (256)")
    command.add_argument("--block-size", type=positive, default=16, help="tokens per block (16)")
    command.add_argument("--prefill-rate", type=above_zero, default=10_000, help="prompt tokens per second (10000)")
    command.add_argument("--seed", type=int, default=7, help="equal seeds give equal conversations (7)")
    command.add_argument("--conversations", type=positive, help="concurrent conversations (4 per engine)")
    command.add_argument("--requests", type=positive, help="stop after this many requests")
    command.add_argument("--duration", type=seconds, help="stop after this time, such as 60s")
    command.add_argument("--rate", type=above_zero, help="maximum requests per second (no limit)")
    command.add_argument("--stay", action="store_true", help="keep the engines running afterwards, until SIGTERM")
    return command.parse_args(arguments)


async def _demonstrate(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    models = Models(PromptOptions())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        model = await models.get(MODEL)
        service = await stack.enter_async_context(ServiceClient(options.url, MODEL))
        chats = await stack.enter_async_context(ChatClient(MODEL))
        rotated, drawn = [[engine.url for engine in await _engines(options, model, stack)] for _ in range(2)]
        engines = dict(zip(_names(options), await _engines(options, model, stack), strict=True))
        for name, engine in engines.items():
            await _join(service, name, engine, stack)
        demonstration = Demonstration(
            engines,
            cache_aware(options.url, chats),
            [round_robin(rotated, chats), at_random(drawn, chats, options.seed)],
            model,
            service,
        )
        _write(_started(options, list(engines)))
        concurrency = options.conversations or _CONVERSATIONS_PER_POD * len(engines)
        limits = Limits(options.requests, options.duration, options.rate)
        different = False
        async for line in demonstration.run(Conversations(options.seed, concurrency), limits):
            _write(line)
            if isinstance(line, Ended):
                different = bool(line.differences)
            if stop.is_set():
                return 130
        if options.stay:
            await stop.wait()
    return 1 if different else 0


async def _engines(options: argparse.Namespace, model: Model, stack: AsyncExitStack) -> list[EngineServer]:
    return [
        await stack.enter_async_context(
            serving(
                EngineOptions(
                    [MODEL],
                    blocks=options.blocks,
                    block_size=options.block_size,
                    seed=options.seed + number,
                    topic=f"kv@{name}@{MODEL}",
                    speed=Speed(options.prefill_rate),
                ),
                model,
            )
        )
        for number, name in enumerate(_names(options))
    ]


def _names(options: argparse.Namespace) -> list[str]:
    return [f"engine-{number}" for number in range(1, options.pods + 1)]


async def _join(service: ServiceClient, name: str, engine: EngineServer, stack: AsyncExitStack) -> None:
    """Adds an engine to the fleet until the stack is closed, and waits until its events are subscribed to."""
    await service.add_pod(name, engine.url)
    stack.push_async_callback(_leave, service, name)
    try:
        await asyncio.wait_for(engine.ranks[0].publisher.subscribed(), _SUBSCRIBE_SECONDS)
    except TimeoutError:
        raise ServiceError(f"the service does not subscribe to {name} at {engine.url}") from None


async def _leave(service: ServiceClient, name: str) -> None:
    with suppress(ServiceError):  # it may have ended first
        await service.remove_pod(name)


def _started(options: argparse.Namespace, pods: Sequence[str]) -> Started:
    return Started(
        MODEL,
        pods,
        options.blocks - 1,
        options.block_size,
        options.seed,
        options.requests,
        options.duration,
    )


def _write(line: Line) -> None:
    sys.stdout.buffer.write(f"{write_line(line)}\n".encode())
    sys.stdout.buffer.flush()
