"""Runs the benchmarks: `python -m scripts.bench [PART …] [--rounds N] [--quick] [--json FILE]`.

--against FOLDER compares with another checkout, for example the commit before: `git worktree add ../before HEAD~1`,
compile it (`python -m service.native.build` in its folder), then `python -m scripts.bench --against ../before`. With
--most-loss 15 the exit code is 1 if a row is worse by more than 15 % and the noise.

Peers that are not installed are left out and listed. NVIDIA Dynamo's indexer: `pip install ai-dynamo-runtime`, here or
in another environment whose Python is KVCACHE_BENCH_DYNAMO; it listens on all addresses of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import psutil
import uvloop

from scripts.bench import (
    events_to_index,
    gateway,
    growth,
    host,
    ids_to_scores,
    memory,
    observing,
    quality,
    text_to_scores,
    token_ids,
    unix_socket,
)
from scripts.bench.against import compare
from scripts.bench.plan import QUICK, Plan
from scripts.bench.results import LeftOut, Measure, Report, read, write
from scripts.bench.servers import dynamo_python
from scripts.bench.tables import markdown, show

Part: TypeAlias = Callable[[Plan], AsyncIterator[Measure | LeftOut]]

PARTS: dict[str, Part] = {
    "text": text_to_scores.run,
    "ids": ids_to_scores.run,
    "events": events_to_index.run,
    "memory": memory.run,
    "growth": growth.run,
    "host": host.run,
    "unix-socket": unix_socket.run,
    "gateway": gateway.run,
    "token-ids": token_ids.run,
    "observing": observing.run,
    "quality": quality.run,
}
_WITH_DYNAMO = {"ids", "events", "memory"}


async def measure(parts: Sequence[str], plan: Plan, against: Path | None) -> Report:
    """Runs the parts one after the other and prints each row as it is measured."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - the runner makes one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    measures = []
    left_out = []
    if against is None and _WITH_DYNAMO & set(parts) and not dynamo_python():
        left_out.append("dynamo: pip install ai-dynamo-runtime, or set KVCACHE_BENCH_DYNAMO")
    for part in parts:
        async for figure in PARTS[part](plan) if against is None else compare(part, against, plan):
            if isinstance(figure, LeftOut):
                left_out.append(figure.what)
            else:
                measures.append(figure)
                print(f"{figure.part}: {figure.what}", file=sys.stderr)
    return Report(_machine(), left_out, measures)


def _machine() -> str:
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def main() -> int:
    """Returns the exit code: 0, 1 for a loss above --most-loss, 2 for wrong usage, 130 after an interrupt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=int, help=f"measurements of each row ({Plan().rounds})")
    parser.add_argument("--quick", action="store_true", help="a rough run of about a minute")
    parser.add_argument("--scale", type=float, help="share of the work of a round, above 0 and at most 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds to this file")
    parser.add_argument("--markdown", action="store_true", help="print the rows with targets as Markdown")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="file", help="show the results in this file instead of measuring"
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with this checkout, in turn")
    parser.add_argument("--most-loss", type=float, metavar="PERCENT", help="fail if a row loses more, beyond the noise")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if arguments.scale is not None and not 0 < arguments.scale <= 1:
        parser.error("--scale must be above 0 and at most 1")
    if arguments.against and not (arguments.against / "scripts" / "bench").is_dir():
        parser.error(f"{arguments.against} is not a checkout of kvcache")
    if arguments.file:
        report = read(arguments.file)
    else:
        plan = QUICK if arguments.quick else Plan()
        plan = replace(plan, rounds=arguments.rounds or plan.rounds, scale=arguments.scale or plan.scale)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report = runner.run(measure(arguments.parts or list(PARTS), plan, arguments.against))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return 130
    if arguments.json:
        write(report, arguments.json)
    if arguments.markdown:
        print(markdown(report))
    else:
        show(report)
    most_loss = math.inf if arguments.most_loss is None else arguments.most_loss / 100
    lost = [row for row in report.measures if row.loses(most_loss)]
    for row in lost:
        print(f"{row.part}: {row.what}: worse than {row.peer}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
