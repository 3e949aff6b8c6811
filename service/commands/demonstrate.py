"""Plays seeded conversations against simulated engines; each request goes to the pod with the best score.

Writes a JSON object per line: `begin`, a `request` for each, `end`. Exit code 1 if a prediction of the service differs
from an engine.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from service.commands.command_line import above_zero, parser, positive, seconds
from service.contract.demo_lines import Ended, Line, Started, write_line
from service.contract.endpoints import Endpoint, parse_endpoints
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from service.simulation.baselines import baselines
from service.simulation.conversations import Conversations
from service.simulation.demonstration import Demonstration, Limits
from service.simulation.engine import SimulatedEngine
from service.simulation.pod import Pod
from service.simulation.service_client import ServiceClient, ServiceError

MODEL = "builtin/demo"
_SUBSCRIBE_SECONDS = 20.0
_CONVERSATIONS_PER_POD = 4


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _read(arguments, environment)
    try:
        return asyncio.run(_demonstrate(options))
    except ValueError as error:
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
    command.add_argument(
        "--endpoints",
        default=environment.get("ZMQ_ENDPOINT", ""),
        help="the endpoints that the service subscribes to, with replay=, one per engine (default: ZMQ_ENDPOINT)",
    )
    command.add_argument("--blocks", type=positive, default=256, help="blocks in each engine's cache (256)")
    command.add_argument("--block-size", type=positive, default=16, help="tokens per block (16)")
    command.add_argument("--seed", type=int, default=7, help="equal seeds give equal conversations (7)")
    command.add_argument("--conversations", type=positive, help="concurrent conversations (4 per engine)")
    command.add_argument("--requests", type=positive, help="stop after this many requests")
    command.add_argument("--duration", type=seconds, help="stop after this time, such as 60s")
    command.add_argument("--rate", type=above_zero, help="maximum requests per second (no limit)")
    command.add_argument("--stay", action="store_true", help="keep the engines running afterwards, until SIGTERM")
    options = command.parse_args(arguments)
    try:
        options.endpoints = parse_endpoints(options.endpoints)
    except ValueError as error:
        command.error(f"--endpoints: {error}")
    return options


async def _demonstrate(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    models = Models(PromptOptions())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        pods = await _pods(options, stack)
        demonstration = Demonstration(
            pods,
            baselines(lambda: _engines(options), options.seed),
            await models.get(MODEL),
            await stack.enter_async_context(ServiceClient(options.url, MODEL)),
            options.block_size,
        )
        _write(_started(options, pods))
        concurrency = options.conversations or _CONVERSATIONS_PER_POD * len(pods)
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


async def _pods(options: argparse.Namespace, stack: AsyncExitStack) -> list[Pod]:
    endpoints: Sequence[Endpoint] = options.endpoints
    pods = [
        await stack.enter_async_context(Pod(f"10.0.0.{number}:8000", MODEL, engine, endpoint))
        for number, (engine, endpoint) in enumerate(zip(_engines(options), endpoints, strict=True), 1)
    ]
    for pod, endpoint in zip(pods, endpoints, strict=True):
        try:
            await asyncio.wait_for(pod.subscribed(), _SUBSCRIBE_SECONDS)
        except TimeoutError:
            raise ServiceError(f"the service does not subscribe to {endpoint.address}: check ZMQ_ENDPOINT") from None
    return pods


def _engines(options: argparse.Namespace) -> list[SimulatedEngine]:
    return [
        SimulatedEngine(options.blocks, options.block_size, options.seed + number)
        for number in range(len(options.endpoints))
    ]


def _started(options: argparse.Namespace, pods: Sequence[Pod]) -> Started:
    return Started(
        MODEL,
        [pod.name for pod in pods],
        options.blocks - 1,
        options.block_size,
        options.seed,
        options.requests,
        options.duration,
    )


def _write(line: Line) -> None:
    sys.stdout.buffer.write(f"{write_line(line)}\n".encode())
    sys.stdout.buffer.flush()
