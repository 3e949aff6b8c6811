"""Compares this checkout with another one: both run the same part in turn, round by round, on the same machine.

Only rows that both checkouts measure are compared. The ratio of a row is the median over the rounds. The other checkout
runs before and after this one in each round: what its two figures differ by is the machine's noise.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.bench.plan import Plan
from scripts.bench.results import LeftOut, Measure, Report, read
from scripts.bench.servers import ROOT


async def compare(part: str, other: Path, plan: Plan) -> AsyncIterator[Measure | LeftOut]:
    """Yields each row of a part with this checkout's rounds as `ours` and the other's as `theirs`.

    A checkout that cannot run the part is left out with the last line of its error.
    """
    ours: list[Report] = []
    theirs: list[Report] = []
    again: list[Report] = []
    for _ in range(plan.rounds):
        for folder, reports in ((other, theirs), (ROOT, ours), (other, again)):
            try:
                reports.append(await _round(part, folder, plan.scale))
            except RuntimeError as error:
                yield LeftOut(f"{part}: {error}")
                return
    before = {row.what: row for row in theirs[0].measures}
    for row in ours[0].measures:
        if row.what in before:
            yield Measure(
                part=row.part,
                what=row.what,
                unit=row.unit,
                ours=_values(ours, row.what),
                peer=other.name,
                theirs=_values(theirs, row.what),
                again=_values(again, row.what),
                more_is_better=row.more_is_better,
            )


def _values(reports: list[Report], what: str) -> list[float]:
    return [value for report in reports for row in report.measures if row.what == what for value in row.ours]


async def _round(part: str, folder: Path, scale: float) -> Report:
    """Runs one round of a part in a checkout. Raises RuntimeError if it fails."""
    with TemporaryDirectory(prefix="kvcache-bench-") as results:
        file = Path(results) / "results.json"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "scripts.bench", part, "--rounds", "1", "--scale", f"{scale}", "--json", str(file)),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, errors = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        if process.returncode:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"{folder.name}: exit code {process.returncode}: {last}")
        return read(file)
