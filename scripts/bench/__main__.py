"""Runs the benchmarks: `python -m scripts.bench [PART …] [--rounds N] [--json FILE]`.

Peers that are not installed are left out and named. NVIDIA Dynamo's indexer: `pip install ai-dynamo-runtime`, here or
in an environment of its own whose Python KVCACHE_BENCH_DYNAMO names; it listens on all addresses of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from scripts.bench import events_to_index, ids_to_scores
from scripts.bench.results import Measure, show, write
from scripts.bench.servers import dynamo_python

PARTS = {"ids": ids_to_scores.run, "events": events_to_index.run}


async def measure(parts: list[str], rounds: int) -> list[Measure]:
    """Runs the parts one after the other; says each figure as it is there."""
    measures = []
    for part in parts:
        async for measured in PARTS[part](rounds):
            measures.append(measured)
            print(f"{measured.part}: {measured.what}", file=sys.stderr)
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not dynamo_python():
        print("left out: dynamo (pip install ai-dynamo-runtime)", file=sys.stderr)
    measures = asyncio.run(measure(arguments.parts or list(PARTS), arguments.rounds))
    show(measures)
    if arguments.json:
        write(measures, arguments.json)


if __name__ == "__main__":
    main()
