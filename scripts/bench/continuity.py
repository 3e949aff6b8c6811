#!/usr/bin/env python3
"""What a restart of the service costs: blind decisions, hit rate, time until its answers are exact, wrong claims.

    python -m scripts.bench.continuity
    python -m scripts.bench.continuity --case "kill -9, replay" --blocks 100000

Simulated engines with their real event and replay sockets are filled; then conversations go on all the while: each turn
is one decision of the service (the pod with the longest prefix match) and one request that its engine serves. The
service is killed with SIGKILL, and started again with the snapshot that it wrote before. While it does not answer, the
turns go to any engine. A decision is blind if the service names no pod although an engine holds a prefix. No engine
evicts, so that an answer that gives a pod more than its engine holds is wrong at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import aiohttp

from scripts.bench.servers import ROOT, free_port
from service.simulation.engine import SimulatedEngine
from service.simulation.publisher import Publisher, batch_payload

MODEL = "builtin/demo"
BLOCK_SIZE = 16
_TURN_TOKENS = 5 * BLOCK_SIZE
_PATIENCE = 120.0


class Case(NamedTuple):
    replay: bool
    """Whether the engines have replay sockets."""
    engines_restart: bool = False
    """Whether half of the engines restart while the service is down."""


CASES = {
    "kill -9, replay": Case(replay=True),
    "kill -9, no replay": Case(replay=False),
    "kill -9, engines restart too": Case(replay=True, engines_restart=True),
}


@dataclass
class Phase:
    """Decisions of one part of a run."""

    decisions: int = 0
    blind: int = 0
    failed: int = 0
    """Not answered: the turn went to any engine."""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    too_much: int = 0
    """Answers that gave a pod more than its engine holds."""
    wrong_claims: int = 0
    """Those of ranks that were called exact."""

    @property
    def hit_rate(self) -> float:
        return self.reused_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass
class Pod:
    name: str
    engine: SimulatedEngine
    publisher: Publisher

    def restart(self) -> None:
        """An empty cache, and a sequence that begins anew."""
        self.engine = SimulatedEngine(self.engine.blocks, BLOCK_SIZE, self.engine.seed + 1000)
        self.publisher.forget()
        self.publisher.sequence = 0

    def serve(self, tokens: Sequence[int]) -> int:
        """Serves a prompt and publishes its events; gives the reused tokens."""
        served = self.engine.serve(tokens)
        for events in served.batches:
            self.publisher.publish(batch_payload(events))
        return served.cached_tokens


@dataclass
class Fleet:
    """Engines, and the conversations that they hold."""

    pods: list[Pod]
    random: random.Random
    conversations: list[array[int]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return sum(pod.engine.held for pod in self.pods)

    def tokens(self, count: int) -> array[int]:
        return array("I", self.random.choices(range(1, 30_000), k=count))

    async def fill(self, blocks: int, each: int) -> None:
        """Spreads conversations of `each` blocks over the engines."""
        for number in range(blocks // each):
            conversation = self.tokens(each * BLOCK_SIZE)
            self.conversations.append(conversation)
            self.pods[number % len(self.pods)].serve(conversation)
            await asyncio.sleep(0)

    def turn(self) -> array[int]:
        """The prompt of a conversation's next turn; it goes on from a random one of its last turns."""
        conversation = self.random.choice(self.conversations)
        conversation.extend(self.tokens(_TURN_TOKENS))
        return conversation


@dataclass
class Service:
    """The service as a process of its own, which can be killed."""

    port: int
    environment: dict[str, str]
    session: aiohttp.ClientSession
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if "KVCACHE_BENCH_LOG" not in os.environ else None,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return response.status, await response.json()

    async def held(self, tokens: array[int]) -> dict[str, int]:
        """The prefix match of each pod in tokens."""
        body = {"model": MODEL, "token_ids": tokens.tolist(), "block_size": BLOCK_SIZE}
        async with self.session.post(f"http://127.0.0.1:{self.port}/query", json=body) as response:
            response.raise_for_status()
            return {pod: ranks["0"] for pod, ranks in (await response.json())["scores"].items()}

    async def exact(self) -> set[str]:
        return {rank["pod"] for rank in (await self.get("/pods"))[1]["pods"] if rank["exact"]}

    async def holds(self, blocks: int) -> None:
        """Waits until the index has as many blocks."""
        for _ in range(int(_PATIENCE / 0.1)):
            if sum(rank["blocks"]["gpu"] for rank in (await self.get("/pods"))[1]["pods"]) >= blocks:
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"the index does not get {blocks} blocks")

    async def wait_for(self, path: str) -> float:
        """Seconds until a path answers 200."""
        began = monotonic()
        while monotonic() - began < _PATIENCE:
            with suppress(aiohttp.ClientError, ValueError):
                async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as response:
                    if response.status == 200:
                        return monotonic() - began
            await asyncio.sleep(0.005)
        raise TimeoutError(path)


class Load:
    """Turns of conversations, one after the other, counted in the present phase."""

    def __init__(self, fleet: Fleet, service: Service) -> None:
        self.phase = Phase()
        self._fleet = fleet
        self._service = service

    async def run(self) -> None:
        while True:
            await self._turn()
            await asyncio.sleep(0)

    async def _turn(self) -> None:
        fleet, phase = self._fleet, self.phase
        prompt = fleet.turn()
        truth = {pod.name: pod.engine.cached_tokens(prompt) for pod in fleet.pods}
        chosen = fleet.random.choice(fleet.pods)
        try:
            held = await self._service.held(prompt)
        except (aiohttp.ClientError, OSError):
            phase.failed += 1
            await asyncio.sleep(0.01)
        else:
            phase.decisions += 1
            phase.blind += not held and any(truth.values())
            if held:
                best = max(held, key=lambda name: held[name])
                chosen = next(pod for pod in fleet.pods if pod.name == best)
            if too_much := [name for name, tokens in held.items() if tokens > truth[name]]:
                phase.too_much += 1
                with suppress(aiohttp.ClientError, OSError):
                    phase.wrong_claims += len(set(too_much) & await self._service.exact())
        phase.reused_tokens += chosen.serve(prompt)
        phase.prompt_tokens += len(prompt)


@asynccontextmanager
async def engines(count: int, blocks: int, *, replay: bool, seed: int) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        pods = []
        for number in range(count):
            name = f"pod-{number}"
            publisher = Publisher(replay="tcp://127.0.0.1:*" if replay else None, topic=f"kv@{name}@{MODEL}")
            await stack.enter_async_context(publisher)
            pods.append(Pod(name, SimulatedEngine(blocks, BLOCK_SIZE, seed + number), publisher))
        yield Fleet(pods, random.Random(seed))


async def restart(name: str, options: argparse.Namespace, state: Path) -> dict[str, Any]:
    """One case: before, down, and after."""
    replay, engines_restart = CASES[name]
    # Nothing is evicted, so that more than the engine holds is always wrong, also while events are on their way.
    room = 2 * options.blocks // options.pods + 100_000
    async with (
        engines(options.pods, room, replay=replay, seed=options.seed) as fleet,
        aiohttp.ClientSession() as session,
    ):
        endpoints = ",".join(
            pod.publisher.address + (f",replay={pod.publisher.replay}" if replay else "") for pod in fleet.pods
        )
        port = free_port()
        environment = {
            "CONTAINER_ENV": "true",
            "MODEL_NAME": MODEL,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "ZMQ_ENDPOINT": endpoints,
            "STATE_DIR": str(state),
            "SNAPSHOT_INTERVAL": f"{options.interval}s",
            "API_KEYS": "",
        }
        service = Service(port, environment, session)
        service.start()
        try:
            await service.wait_for("/ready")
            for pod in fleet.pods:
                await pod.publisher.subscribed()
            await fleet.fill(options.blocks, options.conversation)
            await service.holds(fleet.blocks)
            return await _measure(fleet, service, options, engines_restart=engines_restart)
        finally:
            service.kill()


async def _measure(
    fleet: Fleet, service: Service, options: argparse.Namespace, *, engines_restart: bool
) -> dict[str, Any]:
    load = Load(fleet, service)
    running = asyncio.create_task(load.run())
    try:
        before = load.phase
        await asyncio.sleep(max(options.seconds, 2 * options.interval))
        load.phase = during = Phase()
        service.kill()
        for pod in fleet.pods[::2] if engines_restart else ():
            pod.restart()
        await asyncio.sleep(options.down)
        service.start()
        up = await service.wait_for("/health")
        ready = await service.wait_for("/ready")
        load.phase = after = Phase()
        began = monotonic()
        exact: float | None = None
        while monotonic() - began < options.seconds:
            if exact is None and len(await service.exact()) == len(fleet.pods):
                exact = monotonic() - began
            await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return {
        "blocks": fleet.blocks,
        "before": before,
        "during": during,
        "after": after,
        "up": up,
        "ready": up + ready,
        "exact": exact,
    }


def show(name: str, found: dict[str, Any]) -> None:
    before, during, after = found["before"], found["during"], found["after"]
    exact = "never" if found["exact"] is None else f"{found['exact']:.2f} s"
    print(f"{name}: {found['blocks']} blocks")
    print(f"  listening after {found['up']:.2f} s, ready after {found['ready']:.2f} s, all exact {exact} after ready")
    heads = f"{'decisions':>10} {'blind':>6} {'unanswered':>11} {'hit rate':>9} {'too much':>9} {'claimed exact':>14}"
    print(f"  {'':14} {heads}")
    for title, phase in (("before", before), ("until ready", during), ("after ready", after)):
        print(
            f"  {title:14} {phase.decisions:10} {phase.blind:6} {phase.failed:11} {phase.hit_rate:9.3f} "
            f"{phase.too_much:9} {phase.wrong_claims:14}",
            flush=True,
        )


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--blocks", type=int, default=1_000_000, help="blocks in all engines (1000000)")
    parser.add_argument("--pods", type=int, default=8, help="engines (8)")
    parser.add_argument("--conversation", type=int, default=256, help="blocks of each conversation at first (256)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of conversations before and after (10)")
    parser.add_argument("--down", type=float, default=2.0, help="seconds until it is started again (2)")
    parser.add_argument("--interval", type=float, default=5.0, help="SNAPSHOT_INTERVAL in seconds (5)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory(prefix="kvcache-continuity-") as folder:
            found = await restart(name, options, Path(folder))
        show(name, found)
        failed |= any(found[phase].wrong_claims for phase in ("before", "during", "after"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
