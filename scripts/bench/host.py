"""Part 6, host: duration of `kvcache` commands on each available runtime."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import connect
from scripts.bench.plan import Plan
from scripts.bench.results import LeftOut, Measure, Rounds
from scripts.bench.servers import ROOT, free_port

PART = "6 host"
_NAME = f"kvcache-bench-{os.getpid()}"
_MOST_ROUNDS = 3
_TARGETS = {"up": 3.0, "status": None, "down": None}


class Failed(Exception):
    """A command failed; the text has its output."""


async def run(plan: Plan) -> AsyncIterator[Measure | LeftOut]:
    """Seconds of `up` without a build, `status` and `down` on each runtime, and of `--help`.

    KVCACHE_RUNTIME, KVCACHE_BASE_IMAGE and other variables apply as for `kvcache up`.
    """
    rounds = Rounds()
    with TemporaryDirectory(prefix="kvcache-bench-") as folder:
        host = Host(Path(folder))
        for counts in plan.turns():
            taken = await host.seconds("--help")
            if counts:
                rounds.add("kvcache", {"help": taken})
        yield rounds.measure("help", part=PART, what="kvcache --help", unit="s", most=0.3)
        asked = os.environ.get("KVCACHE_RUNTIME", "auto")
        for kind in RuntimeKind if asked == "auto" else [RuntimeKind(asked)]:
            try:
                connect(kind)
                measures = await _on(kind, host, min(plan.rounds, _MOST_ROUNDS))
            except RuntimeUnavailable as error:
                yield LeftOut(f"{kind.value}: {error.what}")
            except Failed as error:
                yield LeftOut(f"{kind.value}: {error}")
            else:
                for measure in measures:
                    yield measure


async def _on(kind: RuntimeKind, host: Host, count: int) -> list[Measure]:
    rounds = Rounds()
    runtime = ("--runtime", kind.value)
    up = ("up", "--detach", *runtime, "--name", _NAME, "--port", str(free_port()), "--model", "builtin/demo")
    endpoint = ("--zmq-endpoint", "tcp://127.0.0.1:1")
    down = ("down", *runtime, "--name", _NAME)
    try:
        for number in range(1 + count):  # the first one may build the image
            figures = {
                "up": await host.seconds(*up, *endpoint),
                "status": await host.seconds("status", *runtime),
                "down": await host.seconds(*down),
            }
            if number:
                rounds.add("kvcache", figures)
    except BaseException:
        # Also after an interrupt, since the container would stay.
        with suppress(Failed):
            await asyncio.shield(host.seconds(*down))
        raise
    return [
        rounds.measure(command, part=PART, what=f"kvcache {command}, {kind.value}", unit="s", most=most)
        for command, most in _TARGETS.items()
    ]


@dataclass(frozen=True)
class Host:
    """Runs commands with a separate state folder."""

    folder: Path

    async def seconds(self, *arguments: str) -> float:
        """Duration of a command. Raises Failed."""
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "orchestrator",
            *arguments,
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": str(self.folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        taken = time.perf_counter() - started
        if process.returncode:
            said = " ".join(output.decode(errors="replace").split())
            raise Failed(f"`kvcache {arguments[0]}` fails: {said[-300:]}")
        return taken
