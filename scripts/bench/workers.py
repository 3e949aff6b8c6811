"""Requests per second by the number of workers: `python -m scripts.bench.workers [--workers 1 2] [--seconds 4]`.

The client is wrk (`apt-get install wrk`), which costs little beside the service; still, it and the engines behind the
gateway compute on the same machine. So each row has their CPU too, and `free` is the rate that the service's CPU
allows on as many cores as it has workers, if client and engines are elsewhere. Prints a row per kind of request:

  ids      POST /score with 1,024 and 8,192 ids that 4 of 8 pods hold, no two bodies alike
  text     POST /score with a chat of about 8,000 tokens, seen before, with another last message
  gateway  POST /v1/chat/completions with such a chat, to 4 engines that answer at once

`apart` are two services of one process each that know nothing of each other, each with half of the connections: what
they take more than one is due to the machine, not to workers. With NVIDIA Dynamo's indexer (KVCACHE_BENCH_DYNAMO), ids
are measured there too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
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
from scripts.bench.servers import ROOT, Dynamo, Kvcache, dynamo, dynamo_python, kvcache
from scripts.bench.usage import Usage

_PODS, _HOLDING = 8, 4
_ENGINES = 4
_BODIES = 64
_IDS = (1024, 8192)
_CHAT_TOKENS = 8_000
_MARK = "99999"
"""Replaced by another number in each request."""
_MODEL = "builtin/demo"
_CLIENTS = 2
"""Threads of wrk: a single one that waits for its core leaves both workers without requests."""
_APART, _DYNAMO = "apart", "dynamo"
_LUA = """
local before, after, threads = {}, {}, 0
for line in io.lines(os.getenv("BODIES")) do
  local at = line:match(".*()99999")
  before[#before + 1], after[#after + 1] = line:sub(1, at - 1), line:sub(at + 5)
end
setup = function(thread)
  thread:set("n", threads * 44500)
  threads = threads + 1
end
request = function()
  n = n + 1
  local i = n % #before + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, before[i] .. (10000 + n % 89000) .. after[i])
end
"""
_COUNT = re.compile(r"(\d+) requests in")
_RATE = re.compile(r"Requests/sec:\s*([0-9.]+)")
_SLOWEST = re.compile(r"99%\s+([0-9.]+)(us|ms|s)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load(NamedTuple):
    """The requests, their rate per second, the 99th percentile of their times, and their CPU; all times in ms."""

    requests: int
    rate: float
    p99: float
    service: float = 0.0
    supervisor: float = 0.0
    """The part of `service` that is the supervisor's."""
    busiest: float = 1.0
    """The part of the busiest worker in the CPU of all workers."""
    engines: float = 0.0
    client: float = 0.0


class Case(NamedTuple):
    """A kind of request. Targets are called as in the table: `1`, `2`, `apart`, `dynamo`."""

    what: str
    paths: dict[str, str]
    servers: dict[str, Sequence[Kvcache | Dynamo]]
    bodies: dict[str, list[bytes]]
    engines: Usage | None = None


def _written(folder: Path, bodies: Sequence[bytes]) -> tuple[Path, Path]:
    """The script for wrk, and the file of bodies that it reads."""
    script, lines = folder / "requests.lua", folder / "bodies"
    script.write_text(_LUA)
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    return script, lines


async def wrk(port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: int) -> Load:
    """Sends requests over so many connections for so long. Raises RuntimeError if one is not answered with 200."""
    with TemporaryDirectory() as folder:
        script, lines = _written(Path(folder), bodies)
        process = await asyncio.create_subprocess_exec(
            *("wrk", f"-t{_CLIENTS}", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)),
            f"http://127.0.0.1:{port}{path}",
            env={**os.environ, "BODIES": str(lines)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    text = out.decode()
    count, rate, slowest = _COUNT.search(text), _RATE.search(text), _SLOWEST.search(text)
    if count is None or rate is None or slowest is None or "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(text)
    return Load(int(count[1]), float(rate[1]), float(slowest[1]) * _MS[slowest[2]])


async def _measured(case: Case, target: str, connections: int, seconds: int) -> Load:
    """Loads the servers of a target, each with its part of the connections."""
    servers = case.servers[target]
    before = [server.usage.cpu_by_process() for server in servers]
    of_engines, of_client = _cpu(case.engines), _cpu_of_ended_children()
    each = connections // len(servers)
    loads = await asyncio.gather(
        *(wrk(server.port, case.paths[target], case.bodies[target], each, seconds) for server in servers)
    )
    requests = sum(load.requests for load in loads)
    per_request = 1000 / requests
    parents = 0.0
    workers: list[float] = []
    for server, one in zip(servers, before, strict=True):
        (parent, *children) = (now - one.get(pid, 0.0) for pid, now in server.usage.cpu_by_process().items())
        parents, workers = parents + (parent if children else 0.0), workers + (children or [parent])
    return Load(
        requests,
        sum(load.rate for load in loads),
        max(load.p99 for load in loads),
        (parents + sum(workers)) * per_request,
        parents * per_request,
        max(workers) / sum(workers),
        (_cpu(case.engines) - of_engines) * per_request,
        (_cpu_of_ended_children() - of_client) * per_request,
    )


def _cpu(usage: Usage | None) -> float:
    return usage.cpu() if usage is not None else 0.0


def _cpu_of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


async def _cached_ids(servers: Sequence[Kvcache | Dynamo], own: Sequence[Engine], prompts: Sequence[Chain]) -> None:
    """Lets engines store prompts, and waits until each server knows them."""
    for prompt in prompts:
        for engine in own[:_HOLDING]:
            engine.publish(batch(stored(prompt)))
    for server in servers:
        await server.connections(1)
        for prompt in prompts:
            await held_by(server, prompt.tokens, _HOLDING)


def _id_bodies(server: Kvcache | Dynamo, prompts: Sequence[Chain]) -> list[bytes]:
    questions = [server.question([*prompt.tokens, int(_MARK)]) for prompt in prompts]
    return [question.partition(b"\r\n\r\n")[2] for question in questions]


@asynccontextmanager
async def _cheap_engines() -> AsyncIterator[tuple[list[int], Usage]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.bench.cheap_engine", _MODEL, str(_ENGINES), str(ROOT / "models")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield [int(port) for port in (await process.stdout.readline()).split()], Usage(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _cases(counts: Sequence[int], stack: AsyncExitStack, *, apart: bool) -> list[Case]:
    """Starts all servers."""
    random = Random(5)
    limits = {"MAX_REQUESTS_PER_PEER": "256", "MAX_BYTES_IN_FLIGHT": str(256 << 20)}
    ports, usage = await stack.enter_async_context(_cheap_engines())
    pods = ",".join(f"http://127.0.0.1:{port}" for port in ports)
    wanted = {str(count): [count] for count in counts} | ({_APART: [1, 1]} if apart else {})
    scoring: dict[str, Sequence[Kvcache | Dynamo]] = {}
    gateways: dict[str, Sequence[Kvcache | Dynamo]] = {}
    publishers = {}
    for target, processes in wanted.items():
        own = publishers[target] = stack.enter_context(engines(_PODS))
        servers, routing = [], []
        for count in processes:
            several = {"WORKERS": str(count), **limits}
            servers.append(await stack.enter_async_context(kvcache(own, **several)))
            await _heard(servers[-1], own, count)
            routing.append(await stack.enter_async_context(kvcache((), _MODEL, PODS=pods, ZMQ_ENDPOINT="", **several)))
        scoring[target], gateways[target] = servers, routing
    indexers = dict(scoring)
    if dynamo_python():
        own = publishers[_DYNAMO] = stack.enter_context(engines(_PODS))
        indexers[_DYNAMO] = [await stack.enter_async_context(dynamo(own))]
        for engine in own:
            engine.wait_for_subscriber()
    score = dict.fromkeys(scoring, "/score")
    cases = []
    for ids in _IDS:
        prompts = [chain(random, ids // BLOCK_SIZE) for _ in range(_BODIES)]
        bodies = {}
        for target, servers_of in indexers.items():
            await _cached_ids(servers_of, publishers[target], prompts)
            bodies[target] = _id_bodies(servers_of[0], prompts)
        cases.append(Case(f"{ids:,} ids", {**score, _DYNAMO: "/query"}, indexers, bodies))
    chats = dict.fromkeys(scoring, _chats(random, _CHAT_TOKENS))
    cases.append(Case(f"text, about {_CHAT_TOKENS:,} tokens", score, scoring, chats))
    completions = dict.fromkeys(gateways, "/v1/chat/completions")
    cases.append(Case(f"gateway, about {_CHAT_TOKENS:,} tokens", completions, gateways, chats, usage))
    return cases


def _row(case: Case, target: str, loads: Sequence[Load], first: Sequence[Load]) -> str:
    def of(name: str, among: Sequence[Load] = loads) -> float:
        return float(median(getattr(load, name) for load in among))

    rate, cpu = of("rate"), of("service")
    cores = int(target) if target.isdecimal() else 2
    free = cores * of("service", first) / cpu
    return (
        f"{case.what:26} {target:6} {rate:7.0f} {rate / of('rate', first):5.2f} {free:5.2f} {of('p99'):7.1f} "
        f"{cpu:8.3f} {of('supervisor'):8.3f} {of('engines'):8.3f} {of('client'):8.3f} {of('busiest'):7.0%}"
    )


async def measure(
    counts: Sequence[int], connections: int, seconds: int, rounds: int, *, apart: bool, only: str
) -> None:
    async with AsyncExitStack() as stack:
        cases = [case for case in await _cases(counts, stack, apart=apart) if only in case.what]
        loads: dict[tuple[str, str], list[Load]] = {}
        for number in range(rounds + 1):
            for case in cases:
                for target in case.servers:
                    load = await _measured(case, target, connections, seconds)
                    if number:  # before that, caches are filled
                        loads.setdefault((case.what, target), []).append(load)
    print(
        f"{'':26} {'':6} {'req/s':>7} {'times':>5} {'free':>5} {'p99 ms':>7} {'CPU ms':>8} "
        f"{'superv.':>8} {'engines':>8} {'client':>8} {'busiest':>7}"
    )
    for case in cases:
        for target in case.servers:
            print(_row(case, target, loads[case.what, target], loads[case.what, str(counts[0])]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--only", default="", help="cases with this in their names")
    given = parser.parse_args()
    asyncio.run(
        measure(given.workers, given.connections, given.seconds, given.rounds, apart=given.apart, only=given.only)
    )


if __name__ == "__main__":
    main()
