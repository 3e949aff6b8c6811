"""HTTP over a Unix socket against TCP over loopback, to the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from scripts.bench.client import Connection, drive
from scripts.bench.engines import MODEL, tokens
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.servers import Kvcache, kvcache

PART = "7 unix socket"
_IDS = (16, 1024, 8192)
_SECONDS = 1.0


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """CPU and latency of a score over one connection of either kind, in turn."""
    random = Random(6)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "http.sock"
        async with kvcache(HTTP_SOCKET=str(path)) as server:
            loop = asyncio.get_running_loop()
            _, over_unix = await loop.create_unix_connection(lambda: Connection("kvcache"), str(path))
            (over_tcp,) = await server.connections(1)
            for ids in _IDS:
                request = _question(over_tcp, random, ids)
                rounds = Rounds()
                for counts in plan.turns():
                    for name, connection in (("kvcache", over_unix), ("TCP", over_tcp)):
                        figures = await _round(server, connection, request, plan.seconds(_SECONDS))
                        if counts:
                            rounds.add(name, figures)
                for figure, unit in (("CPU", "ms/request"), ("p50", "ms"), ("p99", "ms")):
                    yield rounds.measure(figure, part=PART, what=f"{ids:,} ids, {figure}", unit=unit)
            over_unix.close()


def _question(connection: Connection, random: Random, ids: int) -> bytes:
    body = b'{"model":"%s","prompt":[%s]}' % (MODEL.encode(), ",".join(map(str, tokens(random, ids))).encode())
    return connection.post("/score", body)


async def _round(server: Kvcache, connection: Connection, request: bytes, seconds: float) -> dict[str, float]:
    before = server.usage.cpu()
    load = await drive([connection], [iter(lambda: request, None)], seconds)
    cpu = (server.usage.cpu() - before) / len(load.latencies) * 1000
    return {"CPU": cpu, "p50": load.percentile(50), "p99": load.percentile(99)}
