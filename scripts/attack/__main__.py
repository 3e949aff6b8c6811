"""Attacks a service on loopback, and prints the answers and waits of a good client.

python -m scripts.attack [--seconds 10] [--only WORDS] [--checkout DIR] [--limit-ms 0] [--slices] [--json]
Exits 1 if the service died, or if a good client waited longer than --limit-ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import PIPE
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.attack.attacks import Attack, attacks
from scripts.attack.events import attacks_by_publishers
from scripts.attack.good_client import Experience
from scripts.attack.target import target

_ROOT = Path(__file__).resolve().parent.parent.parent
_SLICES = Path(__file__).resolve().parent / "cpu_slices"
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Result:
    """The effect of an attack; memory in megabytes."""

    attack: str
    client: Experience
    peak_mb: float
    after_mb: float
    survived: bool
    slice_ms: float | None = None
    """The longest CPU time of one callback of the service's event loop, with --slices."""
    slice_of: str = ""
    """That callback."""

    @property
    def waited_ms(self) -> float:
        """The longest time between two answers to the good client."""
        return 1000 * max(self.client.health_seconds, self.client.rejected_seconds)


@dataclass(frozen=True)
class TargetOf:
    """Which service is attacked; `slices` is a file for the CPU times of its callbacks, None to measure none."""

    checkout: Path
    events: str
    slices: Path | None

    @property
    def settings(self) -> dict[str, str]:
        if self.slices is None:
            return {"ZMQ_ENDPOINT": self.events}
        paths = os.pathsep.join((str(_SLICES), str(self.checkout)))
        return {"ZMQ_ENDPOINT": self.events, "PYTHONPATH": paths, "CPU_SLICES": str(self.slices)}

    def forget_slices(self) -> None:
        """Leaves out the callbacks of the start, which loads a model."""
        if self.slices is not None:
            self.slices.write_text("0", encoding="utf-8")

    def longest_slice(self) -> tuple[float | None, str]:
        """In milliseconds, and the callback."""
        if self.slices is None:
            return None, ""
        seconds, _, callback = self.slices.read_text(encoding="utf-8").partition(" ")
        return 1000 * float(seconds or 0), callback


async def attacked(name: str, attack: Attack, seconds: float, target_of: TargetOf) -> Result:
    """Starts a service, attacks it, and returns the good client's measurements."""
    async with target(target_of.checkout, **target_of.settings) as service:
        command = (sys.executable, "-m", "scripts.attack.good_client", str(service.port))
        client = await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=PIPE, stdout=PIPE)
        assert client.stdout is not None  # noqa: S101 - it is a pipe
        await client.stdout.readline()
        target_of.forget_slices()
        try:
            await attack(service.port, seconds)
            await asyncio.sleep(0.5)
        finally:
            out, _ = await client.communicate(b"")
        alive = service.alive()
        peak, after = (service.peak_rss(), service.rss()) if alive else (0, 0)
    megabytes = peak / _MEGABYTE, after / _MEGABYTE
    return Result(name, Experience(**json.loads(out)), *megabytes, alive, *target_of.longest_slice())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def line(result: Result) -> str:
    seen = result.client
    figures = (
        f"{1000 * seen.health_seconds:8,.0f} {1000 * seen.score_seconds:8,.0f} {1000 * seen.rejected_seconds:8,.0f}"
        f" {seen.answered:8,} {seen.rejected:8,} {result.peak_mb:8,.0f} {result.after_mb:8,.0f}"
    )
    if result.slice_ms is not None:
        figures += f" {result.slice_ms:8,.0f}"
    return f"{result.attack:48}{figures}{'' if result.survived else '   the service died'}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.attack", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="longest duration of one attack")
    parser.add_argument("--only", default="", help="only attacks whose name holds this")
    parser.add_argument("--checkout", type=Path, default=_ROOT, help="the checkout whose service is attacked")
    parser.add_argument("--limit-ms", type=float, default=0.0, help="longest wait of a good client; 0 for any")
    parser.add_argument(
        "--slices", action="store_true", help="measure the longest CPU time of one callback of the event loop, too"
    )
    parser.add_argument("--json", action="store_true", help="one object per attack")
    options = parser.parse_args(arguments)
    if not options.json:
        heads = (
            "health",
            "score",
            "no score",
            "answered",
            "rejected",
            "peak MB",
            "after MB",
            *(["slice"] if options.slices else []),
        )
        print(f"{'a good client, longest wait in ms':48}" + " ".join(f"{head:>8}" for head in heads))
    failed = False
    events = f"tcp://127.0.0.1:{_free_port()}"
    bound = events.replace("127.0.0.1", "*")
    for name, attack in {**attacks(), **attacks_by_publishers(events)}.items():
        if options.only not in name:
            continue
        with TemporaryDirectory() as folder:
            slices = Path(folder) / "slices" if options.slices else None
            result = asyncio.run(
                attacked(name, attack, options.seconds, TargetOf(options.checkout.resolve(), bound, slices))
            )
        shown: dict[str, Any] = asdict(result)
        print(json.dumps(shown) if options.json else line(result), flush=True)
        failed |= not result.survived or bool(options.limit_ms and result.waited_ms > options.limit_ms)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
