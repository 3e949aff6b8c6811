"""Part 7, continued: what the access log and traces cost the gateway.

Gateways before the same engines, one with neither and one with each, get the same requests in turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from aiohttp import web

from scripts.bench.client import drive
from scripts.bench.gateway import MODEL_DIRS, PART, REAL, Size, Writer, cheap_engines
from scripts.bench.gateways import Gateway, ours
from scripts.bench.plan import Plan
from scripts.bench.results import LeftOut, Measure, Rounds
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions

_SIZE = Size(1_000, 200)
_CHATS = 8
_REPEATS = 40
_SECONDS = 60.0
_PATH = "/v1/chat/completions"
_ONE_IN_TWENTY = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}


async def run(plan: Plan) -> AsyncIterator[Measure | LeftOut]:
    """CPU of a request with the access log and with traces, beside that with neither."""
    name = REAL if (MODEL_DIRS / REAL).is_dir() else "builtin/demo"
    async with AsyncExitStack() as stack:
        models = Models(PromptOptions(models_dir=MODEL_DIRS))
        stack.push_async_callback(models.close)
        writer = Writer(await models.get(name), name, Random(11))
        pods, _ = await stack.enter_async_context(cheap_engines(name))
        collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": await stack.enter_async_context(_collector())}
        settings: dict[str, dict[str, str]] = {
            "neither": {},
            "neither, again": {},
            "ACCESS_LOG=json": {"ACCESS_LOG": "json"},
            "ACCESS_LOG=human": {"ACCESS_LOG": "human"},
            "traces": collector,
            "traces, one in 20": {**collector, **_ONE_IN_TWENTY},
        }
        gateways = {
            what: await stack.enter_async_context(ours(pods, name, MODELS_DIR=str(MODEL_DIRS), **given))
            for what, given in settings.items()
        }
        rounds, order = Rounds(), Random(12)
        for counts in plan.turns():
            bodies = [(await writer.chat(_SIZE)).turns[0] for _ in range(_CHATS)]
            for what, gateway in order.sample(list(gateways.items()), len(gateways)):
                used = await _driven(gateway, bodies, plan.count(_REPEATS))
                if counts:
                    rounds.add(what, {"cpu": used})
        for what in gateways:
            if what != "neither":
                text = f"{what}: CPU of a turn of {_SIZE.turn} after {_SIZE.tokens:,} tokens"
                yield rounds.measure("cpu", part=PART, what=text, unit="ms/request", servers=(what, "neither"))


async def _driven(gateway: Gateway, bodies: Sequence[bytes], repeats: int) -> float:
    """CPU milliseconds per request, with one connection for each body."""
    connections = await gateway.process.connections(len(bodies))
    before = gateway.process.usage.cpu()
    load = await drive(connections, [[connections[0].post(_PATH, body)] * repeats for body in bodies], _SECONDS)
    return (gateway.process.usage.cpu() - before) / len(load.latencies) * 1000


@asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """Runs a collector that drops what it gets; gives its URL."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.post("/v1/traces", take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
