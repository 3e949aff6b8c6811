"""Mixed load on a service of its own, for a given time: growing chats against simulated engines, scores, events of
engines that come, evict, restart and go, slow clients, and clients that leave.

python -m scripts.soak [--duration 30m] [--windows 12] [--json]
Prints memory, descriptors, latencies and CPU time of each window. Exits 1 if an answer differed from the engines, a
request failed, the service died, or memory, descriptors or CPU time per answer grew from the second quarter to the
last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from scripts.attack.target import Target, target
from scripts.soak.churn import Churn
from scripts.soak.clients import Scores, leaving_clients, slow_clients
from scripts.soak.windows import Window, drifts
from service.contract.demo_lines import Ended, read_line
from service.contract.units import parse_seconds

_ROOT = Path(__file__).resolve().parent.parent.parent
_ENGINES = 3
_CHATS_PER_SECOND = 15


async def soak(duration: float, windows: int, *, as_json: bool) -> list[str]:
    """Runs it, prints each window, and returns what went wrong."""
    async with AsyncExitStack() as stack:
        churned = _free_port()
        # Small caches and limits fill in the first minutes of a run, after which nothing may grow.
        service = await stack.enter_async_context(
            target(
                _ROOT,
                ZMQ_ENDPOINT=f"tcp://*:{churned}",
                INDEX_MAX_BLOCKS="200000",
                TOKEN_CACHE_BYTES="8m",  # noqa: S106 - a size
                POD_TTL="2",
                BODY_TIMEOUT="5",
            )
        )
        chats = asyncio.create_task(_chats(service, duration))
        scores = Scores(service.port)
        churn = Churn(f"tcp://127.0.0.1:{churned}")
        work = [
            asyncio.create_task(one)
            for one in (scores.run(), churn.run(), slow_clients(service.port), leaving_clients(service.port))
        ]
        try:
            seen = await _observe(service, scores, churn, duration, windows, as_json=as_json)
        finally:
            for task in work:
                task.cancel()
            ended = await asyncio.gather(*work, return_exceptions=True)
        wrong = [f"a client failed: {one!r}" for one in ended if isinstance(one, Exception)]
        wrong += await chats
        wrong += [f"{scores.failures} scores failed, the last with {scores.last_failure}"] if scores.failures else []
        return [*wrong, *([] if service.alive() else ["the service died"]), *drifts(seen)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _chats(service: Target, duration: float) -> list[str]:
    """Growing conversations, each answer of the service compared with the engines."""
    tool = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "demonstrate", f"--url=http://127.0.0.1:{service.port}"),
        *(f"--pods={_ENGINES}", f"--duration={duration}s", f"--rate={_CHATS_PER_SECOND}"),
        cwd=_ROOT,
        stdout=PIPE,
        limit=1 << 24,
    )
    assert tool.stdout is not None  # noqa: S101 - it is a pipe
    last: Ended | None = None
    async for line in tool.stdout:
        read = read_line(line.decode())
        last = read if isinstance(read, Ended) else last
    await tool.wait()
    if last is None:
        return ["the growing chats did not end"]
    print(f"{last.requests} chats, {last.predictions} predictions, {len(last.differences)} different from the engines")
    return [f"a wrong answer: {difference}" for difference in last.differences[:10]]


async def _observe(
    service: Target, scores: Scores, churn: Churn, duration: float, windows: int, *, as_json: bool
) -> list[Window]:
    seen: list[Window] = []
    spent = _cpu_seconds(service)
    if not as_json:
        heads = ("memory MB", "descriptors", "scores", "p50 ms", "p99 ms", "batches", "CPU ms each")
        print(f"{'seconds':>8}" + "".join(f"{head:>13}" for head in heads))
    for number in range(1, windows + 1):
        await asyncio.sleep(duration / windows)
        if not service.alive():
            break
        times, batches = scores.taken(), churn.taken()
        spent, spent_before = _cpu_seconds(service), spent
        ended = number * duration / windows
        window = Window.of(ended, service.rss(), service.process.num_fds(), times, batches, cpu=spent - spent_before)
        seen.append(window)
        print(json.dumps(asdict(window)) if as_json else window.line(), flush=True)
    return seen


def _cpu_seconds(service: Target) -> float:
    times = service.process.cpu_times()
    return float(times.user + times.system)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--duration", type=parse_seconds, default=1800.0, help="how long, such as 90s or 30m (30m)")
    parser.add_argument("--windows", type=int, default=12, help="parts of that time in the table (12)")
    parser.add_argument("--json", action="store_true", help="one object per window")
    options = parser.parse_args(arguments)
    wrong = asyncio.run(soak(options.duration, options.windows, as_json=options.json))
    for one in wrong:
        print(one, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
