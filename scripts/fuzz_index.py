#!/usr/bin/env python3
"""Compares the index with simulated engines under random workloads, and minimizes the failures.

    python scripts/fuzz_index.py
    python scripts/fuzz_index.py --seeds 1000 --setup "offloading in chunks"

Prints every wrong answer that claims to be exact with the smallest workload that reproduces it. Exits 1 if one exists.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from service.simulation.workload import SETUPS, described, generate, run, search, smallest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="append", choices=SETUPS, help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=20, help="workloads per setup")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=30, help="operations of each workload")
    arguments = parser.parse_args()
    status = 0
    print(f"{'setup':36} {'answers':>8} {'equal':>8} {'different':>9} {'claimed exact':>13} {'needless marks':>14}")
    for name in arguments.setup or SETUPS:
        total = equal = claimed = needless = 0
        found = None
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            operations = generate(SETUPS[name], seed, arguments.operations)
            answers = [answer for answer, _ in run(SETUPS[name], operations)]
            wrong = sum(not answer.equal for answer in answers)
            total += len(answers)
            equal += len(answers) - wrong
            claimed += sum(not answer.equal and answer.inexact is None for answer in answers)
            needless += 0 if wrong else sum(answer.inexact is not None for answer in answers)
            found = found or search(SETUPS[name], operations)
        print(f"{name:36} {total:8} {equal:8} {total - equal:9} {claimed:13} {needless:14}", flush=True)
        if found is not None:
            status = 1
            print("\n".join(described(smallest(found))), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
