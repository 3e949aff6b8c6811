"""Several simulated engines on consecutive ports, until a signal ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from service.contract.endpoints import Endpoint, format_endpoints
from service.contract.settings import Settings
from service.native.backend import COMPILED
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import CacheBudget, PromptOptions
from service.simulation.server import EngineOptions, EngineServer, serving

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Engines:
    """`count` engines of one model, which differ in port and seed; `first` describes the first of them."""

    model: str
    count: int
    first: EngineOptions


async def run(engines: Engines, settings: Settings) -> None:
    """Runs the engines until SIGINT or SIGTERM, and prints their addresses.

    Raises OSError if they cannot listen, ModelNotFound and ModelUnavailable.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    caches = CacheBudget.of(settings.token_cache_bytes, compiled=COMPILED)
    models = Models(PromptOptions.of(settings, caches), lambda _: True)  # the user of this command is the operator
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        model = await models.get(engines.model)
        running = [await _started(stack, _numbered(engines.first, number), model) for number in range(engines.count)]
        _print(running, engines.first.host)
        await stop.wait()


def _numbered(first: EngineOptions, number: int) -> EngineOptions:
    return replace(first, port=first.port + number if first.port else 0, seed=first.seed + number)


async def _started(stack: AsyncExitStack, options: EngineOptions, model: Model) -> EngineServer:
    try:
        return await stack.enter_async_context(serving(options, model))
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).rstrip(".")
        raise OSError(
            f"port {options.port} of {options.host} cannot be listened on: {reason}. "
            "Name another first port with --port (0: any free ones), or another address with --host."
        ) from error


def _print(engines: Sequence[EngineServer], host: str) -> None:
    for engine in engines:
        print(engine.url)  # noqa: T201
    endpoints = (
        Endpoint(rank.publisher.address, pod=engine.pod, replay=rank.publisher.replay or None)
        for engine in engines
        for rank in engine.ranks
        if engine.publishes
    )
    print(f"ZMQ_ENDPOINT={format_endpoints(endpoints)}", flush=True)  # noqa: T201
    # On standard error, since programs read the lines above.
    pods = " ".join(f"--pod {_reached(engine.url, host)}" for engine in engines)
    child = " --runtime process" if host in _LOOPBACK else ""
    print(f"Serve them: kvcache up{child} {pods}", file=sys.stderr)  # noqa: T201
    if child:
        print("A container reaches them only with: kvcache simulate --host 0.0.0.0", file=sys.stderr)  # noqa: T201


def _reached(url: str, host: str) -> str:
    """The URL under which this machine reaches an engine that listens on `host`."""
    return url.replace(host, _EVERY_INTERFACE.get(host, host), 1)
