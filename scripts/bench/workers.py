"""Requests per second by the number of workers: `python -m scripts.bench.workers [--workers 1 2] [--seconds 4]`.

The client is wrk (`apt-get install wrk`), which costs little beside the service; still, it and the engines behind the
gateway compute on the same machine. Prints a row per kind of request:

  ids      POST /score with 1,024 and 8,192 ids that 4 of 8 pods hold, no two bodies alike
  text     POST /score with chats of about 1,000 and 8,000 tokens whose last message differs
  gateway  POST /v1/chat/completions with such chats, to 4 engines that answer at once
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from scripts.bench.client import connect
from scripts.bench.conversations import conversation
from scripts.bench.engines import BLOCK_SIZE, Chain, Engine, batch, chain, stored
from scripts.bench.pairs import engines, held_by
from scripts.bench.servers import ROOT, Kvcache, kvcache

_PODS, _HOLDING = 8, 4
_ENGINES = 4
_BODIES = 64
_MARK = "99999"
"""Replaced by another number in each request."""
_MODEL = "builtin/demo"
_LUA = """
local before, after, n = {}, {}, 0
for line in io.lines(os.getenv("BODIES")) do
  local at = line:match(".*()99999")
  before[#before + 1], after[#after + 1] = line:sub(1, at - 1), line:sub(at + 5)
end
request = function()
  n = n + 1
  local i = n % #before + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, before[i] .. (10000 + n % 89000) .. after[i])
end
"""
_RATE = re.compile(r"Requests/sec:\s*([0-9.]+)")
_SLOWEST = re.compile(r"99%\s+([0-9.]+)(us|ms|s)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load(NamedTuple):
    """Requests per second, the 99th percentile of their times, and the service's CPU per request, in milliseconds."""

    rate: float
    p99: float
    cpu: float = 0.0


def _written(folder: Path, bodies: Sequence[bytes]) -> tuple[Path, Path]:
    """The script for wrk, and the file of bodies that it reads."""
    script, lines = folder / "requests.lua", folder / "bodies"
    script.write_text(_LUA)
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    return script, lines


async def wrk(port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Sends requests over so many connections for so long. Raises RuntimeError if one is not answered with 200."""
    with TemporaryDirectory() as folder:
        script, lines = _written(Path(folder), bodies)
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)),
            f"http://127.0.0.1:{port}{path}",
            env={**os.environ, "BODIES": str(lines)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    text = out.decode()
    rate, slowest = _RATE.search(text), _SLOWEST.search(text)
    if rate is None or slowest is None or "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(text)
    return Load(float(rate[1]), float(slowest[1]) * _MS[slowest[2]])


def _chats(random: Random, tokens: int) -> list[bytes]:
    return [
        msgspec.json.encode(
            {
                "model": _MODEL,
                "messages": [
                    *conversation(random.getrandbits(32), 5, tokens * 0.8),
                    {"role": "user", "content": f"What of {_MARK}?"},
                ],
                "max_tokens": 16,
            }
        )
        for _ in range(_BODIES)
    ]


async def _heard(server: Kvcache, own: Sequence[Engine], workers: int) -> None:
    """Waits until each worker of a server hears each engine."""
    block = Chain([1], list(range(1, BLOCK_SIZE + 1)))
    question = msgspec.json.encode({"prompt": block.tokens, "model": server.model})
    while True:
        for engine in own:
            engine.publish(batch(stored(block)))
        await asyncio.sleep(0.05)
        fresh = [await connect(server.port) for _ in range(2 * workers)]
        answers = [msgspec.json.decode(await one.send(one.post("/score", question))) or {} for one in fresh]
        for one in fresh:
            one.close()
        has_all = workers == 1 or f"kvcache_workers {workers}.0" in (await _get(server, "/metrics")).decode()
        if has_all and all(len(answer) == len(own) for answer in answers):
            return


async def _get(server: Kvcache, path: str) -> bytes:
    (connection,) = await server.connections(1)
    return await connection.get(path)


async def _cached_ids(server: Kvcache, own: Sequence[Engine], random: Random, ids: int) -> list[bytes]:
    prompts = [chain(random, ids // BLOCK_SIZE) for _ in range(_BODIES)]
    for prompt in prompts:
        for engine in own[:_HOLDING]:
            engine.publish(batch(stored(prompt)))
    for prompt in prompts:
        await held_by(server, prompt.tokens, _HOLDING)
    return [msgspec.json.encode({"prompt": [*prompt.tokens, int(_MARK)], "model": server.model}) for prompt in prompts]


@asynccontextmanager
async def _cheap_engines() -> AsyncIterator[list[int]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.bench.cheap_engine", _MODEL, str(_ENGINES), str(ROOT / "models")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield [int(port) for port in (await process.stdout.readline()).split()]
    finally:
        process.terminate()
        await process.wait()


async def measure(workers: Sequence[int], connections: int, seconds: float, rounds: int) -> None:
    random = Random(5)
    loads: dict[str, dict[int, list[Load]]] = {}
    limits = {"MAX_REQUESTS_PER_PEER": "256", "MAX_BYTES_IN_FLIGHT": str(256 << 20)}
    async with AsyncExitStack() as stack:
        ports = await stack.enter_async_context(_cheap_engines())
        pods = ",".join(f"http://127.0.0.1:{port}" for port in ports)
        running: dict[int, tuple[Kvcache, Kvcache]] = {}
        publishers = {}
        for count in workers:
            own = stack.enter_context(engines(_PODS))
            several = {"WORKERS": str(count), **limits}
            server = await stack.enter_async_context(kvcache(own, **several))
            await _heard(server, own, count)
            gateway = await stack.enter_async_context(kvcache((), _MODEL, PODS=pods, ZMQ_ENDPOINT="", **several))
            running[count] = server, gateway
            publishers[count] = own
        cases = []
        for ids in (1024, 8192):
            bodies = {}
            for count, (server, _) in running.items():
                bodies[count] = await _cached_ids(server, publishers[count], random, ids)
            cases.append((f"{ids:,} ids", "/score", bodies, 0))
        for tokens in (1_000, 8_000):
            chats = _chats(random, tokens)
            same = dict.fromkeys(workers, chats)
            cases.append((f"text, about {tokens:,} tokens", "/score", same, 1))
            cases.append((f"gateway, about {tokens:,} tokens", "/v1/chat/completions", same, 1))
        for _ in range(rounds):
            for what, path, bodies, of in cases:
                for count, servers in running.items():
                    server = servers[of]
                    before = server.usage.cpu()
                    load = await wrk(server.port, path, bodies[count], connections, seconds)
                    used = (server.usage.cpu() - before) / (load.rate * seconds) * 1000
                    load = load._replace(cpu=used)
                    loads.setdefault(what, {}).setdefault(count, []).append(load)
    for what, by_count in loads.items():
        rates = {count: median(load.rate for load in one) for count, one in by_count.items()}
        slow = {count: median(load.p99 for load in one) for count, one in by_count.items()}
        first = rates[workers[0]]
        cpu = {count: median(load.cpu for load in one) for count, one in by_count.items()}
        shown = (
            f"{rates[n]:7.0f}/s ({rates[n] / first:4.2f}x, p99 {slow[n]:5.1f} ms, CPU {cpu[n]:6.3f} ms)"
            for n in workers
        )
        print(f"{what:30} {'  '.join(shown)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.workers, arguments.connections, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
