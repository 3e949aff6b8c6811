"""What is around a replica is not as it should be: a second fleet, another snapshot, a full disk, a wrong clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from scripts.bench.continuity.fleet import Fleet, engines
from scripts.bench.continuity.outcome import Outcome
from scripts.bench.continuity.plan import Plan
from scripts.bench.continuity.requests import Requests, requesting
from scripts.bench.continuity.services import Replica, replicas, until
from scripts.bench.continuity.valkey import valkey
from service.replicas.snapshot_format import VERSION, Header, frame, start

_EXTRA = "extra"
_HEADER = slice(28, 37)
"""The first bytes of the first record, up to the version."""
_CLOCK = """\
import os, time
_time = time.time
time.time = lambda: _time() + os.stat({path!r}).st_mtime - 1e9
"""
"""As sitecustomize: a clock that is wrong by as much as a file's time, less 1e9. Only Python's time.time is."""


async def second_fleet(name: str, plan: Plan) -> Outcome:
    """Two fleets with a Valkey in common, and prompts that are the same."""
    outcome = Outcome(name)
    half = replace(plan, blocks=plan.blocks // 2, pods=max(2, plan.pods // 2))
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey())
        made = await stack.enter_async_context(replicas())
        fleets: list[tuple[Fleet, list[Replica]]] = []
        for number, prefix in enumerate(("blue", "green")):
            fleet = await stack.enter_async_context(engines(half, seed=1000 * number))
            fleet.random.seed(plan.seed)
            common = {"PODS": fleet.urls, "SHARED_STATE": store.url, "SHARED_STATE_PREFIX": prefix, "STATE_DIR": ""}
            own = [made.make(**common, BOOTSTRAP_FROM="shared", SNAPSHOT_INTERVAL="1s") for _ in range(2)]
            fleets.append((fleet, own))
        for fleet, own in fleets:
            await _filled(fleet, own, half)
        (blue, blues), (_, greens) = fleets
        await _add(_EXTRA, blues[0])
        await until(lambda: _lists(blues[1], _EXTRA), "the other replica does not hear of the pod")
        for title, (fleet, own) in zip(("first fleet", "second fleet"), fleets, strict=True):
            requests = Requests(fleet, _in_turn(own), plan.rate)
            outcome.phases.append(requests.begin(title))
            async with requesting(requests):
                await asyncio.sleep(plan.seconds)
        mixed = await _lists(greens[0], _EXTRA) or await _lists(greens[1], _EXTRA)
        members = {await one.metric("kvcache_replicas") for _, own in fleets for one in own}
        keys = {key.split(b":")[0].decode() for key in await store.ask("KEYS", "*")}
    outcome.facts["blocks"] = f"{blue.blocks:,} in each"
    outcome.aim("each has its own replicas and pods", members == {2.0} and not mixed, f"{members}")
    outcome.aim("keys begin with the prefixes", keys == {"{blue}", "{green}"}, ", ".join(sorted(keys)))
    outcome.none_failed()
    outcome.no_over_claims()
    return outcome


def _in_turn(own: list[Replica]) -> Callable[[], int]:
    ports = cycle([one.port for one in own])
    return lambda: next(ports)


async def _filled(fleet: Fleet, own: list[Replica], plan: Plan) -> None:
    for one in own:
        one.start()
    for one in own:
        await one.ready()
        await one.forwards_to(len(fleet.pods))
    await fleet.fill(plan.blocks, plan.conversation)
    for one in own:
        await one.holds(fleet.blocks)


async def _lists(replica: Replica, pod: str) -> bool:
    return any(one["name"] == pod for one in (await replica.get("/pods"))[1]["fleet"])


async def other_version(name: str, plan: Plan) -> Outcome:
    """The snapshot in STATE_DIR is of a program that is newer."""
    outcome = Outcome(name)
    async with engines(plan) as fleet, replicas() as made:
        one = made.make(PODS=fleet.urls, SNAPSHOT_INTERVAL=f"{plan.interval}s")
        await _filled(fleet, [one], plan)
        await one.stop()
        file = one.state / "index.snapshot"
        content = file.read_bytes()
        known = len(start(0.0))
        file.write_bytes(content[:16] + frame(Header(VERSION + 1, 0.0)) + content[known:])
        await _started_again(outcome, one, fleet, plan)
        await until(lambda: _is_of_this_version(file), "no snapshot takes its place", 10 * plan.interval)
        log = one.log
    said = [line for line in log.splitlines() if f"it has version {VERSION + 1}" in line]
    outcome.aim("said in one line", len(said) == 1, len(said))
    outcome.aim("a snapshot of this version takes its place", is_met=True, found="yes")
    return outcome


async def _is_of_this_version(file: Path) -> bool:
    content = await asyncio.to_thread(file.read_bytes)
    return content[_HEADER] == start(0.0)[_HEADER]


async def _started_again(outcome: Outcome, one: Replica, fleet: Fleet, plan: Plan) -> None:
    """Starts a replica, which has the replay sockets of its engines, and sends it turns."""
    one.start()
    outcome.facts["ready after"] = f"{await one.ready():.2f} s"
    await one.forwards_to(len(fleet.pods))
    requests = Requests(fleet, lambda: one.port, plan.rate)
    outcome.phases.append(requests.begin("after ready"))
    async with requesting(requests):
        await one.holds(fleet.blocks)
        await asyncio.sleep(plan.seconds)
    after = outcome.phases[-1]
    outcome.aim("nothing lost: no blind decision", after.blind == 0, f"{after.blind} of {after.decisions}")
    outcome.none_failed()
    outcome.no_over_claims()


async def full_disk(name: str, plan: Plan) -> Outcome:
    """STATE_DIR is a disk on which there is room for the first snapshot and not for a second one."""
    outcome = Outcome(name)
    size = plan.blocks * 20 // (1 << 20) + 1
    async with engines(plan) as fleet, replicas() as made, _small_disk(made.folder, size) as (inside, disk):
        environment = {"PODS": fleet.urls, "STATE_DIR": str(disk), "SNAPSHOT_INTERVAL": f"{plan.interval}s"}
        one = made.make(**environment)
        one.command = (*inside, *one.command)
        await _filled(fleet, [one], plan)

        async def written() -> bool:
            return await one.metric("kvcache_snapshots_written_total") >= 1

        async def failed() -> bool:
            return await one.metric("kvcache_snapshot_failures_total") >= 2

        await until(written, "no snapshot is written")
        requests = Requests(fleet, lambda: one.port, plan.rate)
        outcome.phases.append(requests.begin("disk full"))
        async with requesting(requests):
            await until(failed, "the disk does not become full")
            await asyncio.sleep(plan.seconds)
        said = [line for line in one.log.splitlines() if "No space left on device" in line]
        outcome.aim("said in one line", len(said) == 1, len(said))
        one.kill()
        await _started_again(outcome, one, fleet, plan)
        loaded = [line for line in one.log.splitlines() if " blocks of " in line and "loaded" in line]
        outcome.aim("the last whole snapshot is kept", len(loaded) == 1, loaded[0].partition("loaded ")[2] or "none")
    outcome.facts["disk"] = f"{size} MB"
    return outcome


@asynccontextmanager
async def _small_disk(folder: Path, megabytes: int) -> AsyncIterator[tuple[tuple[str, ...], Path]]:
    """A file system in memory; yields a command that runs another one where it can be seen, and its path."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {disk} && echo mounted && exec sleep infinity"
    holder = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount), stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None  # noqa: S101 - it is a pipe
        if await holder.stdout.readline() != b"mounted\n":
            raise RuntimeError("no small disk: this needs user namespaces (unshare of util-linux)")
        yield ("nsenter", "--target", str(holder.pid), "--user", "--mount", "--preserve-credentials"), disk
    finally:
        holder.kill()
        await holder.wait()


async def wrong_clock(name: str, plan: Plan) -> Outcome:
    """The clock of one of two replicas jumps an hour ahead, and then an hour back behind the other's."""
    outcome = Outcome(name)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(engines(plan))
        store = await stack.enter_async_context(valkey())
        made = await stack.enter_async_context(replicas())
        clock = made.folder / "clock"
        clock.touch()
        (made.folder / "sitecustomize.py").write_text(_CLOCK.format(path=str(clock)))
        settings = {"PODS": fleet.urls, "SHARED_STATE": store.url, "SNAPSHOT_INTERVAL": f"{plan.interval}s"}
        right = made.make(**settings)
        wrong = made.make(**settings, PYTHONPATH=str(made.folder))
        own = [right, wrong]
        _set(clock, 0.0)
        await _filled(fleet, own, plan)
        await _add(_EXTRA, right)
        await until(lambda: _lists(wrong, _EXTRA), "the other replica does not hear of the pod")
        requests = Requests(fleet, _in_turn(own), plan.rate)
        lost = members = 0
        async with requesting(requests):
            for title, hours in (("right", 0), ("an hour ahead", 1), ("an hour behind", -1)):
                _set(clock, hours * 3600.0)
                outcome.phases.append(requests.begin(title))
                await asyncio.sleep(plan.seconds / 2)
                for at, by in enumerate((wrong, right, wrong, right)):
                    lost += not await _change(by, own, 1.0 + at / 4)
                await asyncio.sleep(plan.seconds / 2)
                members += {await one.metric("kvcache_replicas") for one in own} != {2.0}
    outcome.facts["blocks"] = f"{fleet.blocks:,}"
    outcome.aim("the last change of a pod wins, whoever makes it", lost == 0, f"{lost} of 12 lost")
    outcome.aim("the replicas see each other all the time", members == 0, members)
    outcome.none_failed()
    outcome.steady_hit_rate()
    outcome.no_over_claims()
    return outcome


def _set(clock: Path, seconds: float) -> None:
    os.utime(clock, (0, 1e9 + seconds))


async def _add(pod: str, at: Replica) -> None:
    """Adds a pod that nobody answers for."""
    async with at.session.post(f"{at.url}/pods", json={"url": "http://127.0.0.1:1", "name": pod}) as response:
        response.raise_for_status()


async def _change(by: Replica, own: list[Replica], weight: float) -> bool:
    """Changes the extra pod at one replica; whether all replicas have the change."""
    async with by.session.patch(f"{by.url}/pods/{_EXTRA}", json={"weight": weight}) as response:
        response.raise_for_status()

    async def has() -> bool:
        fleets = [(await one.get("/pods"))[1]["fleet"] for one in own]
        return all(one["weight"] == weight for fleet in fleets for one in fleet if one["name"] == _EXTRA)

    try:
        await until(has, "a change is lost", 5.0)
    except TimeoutError:
        return False
    return True
