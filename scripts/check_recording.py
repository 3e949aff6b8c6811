#!/usr/bin/env python3
"""Holds the index against an engine: applies a recording of its events and compares what they say it holds with what
the engine itself answered.

    python scripts/check_recording.py tests/recordings/a_simple.jsonl
    python scripts/check_recording.py my_engine.jsonl my_engine.truth.json

tests/recordings/README.md describes both files. Exits 1 when an answer differs, 2 when a file cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from service.events.recording import Recording
from service.index.memory import MemoryIndex
from service.offline.feed import Feed
from service.simulation.truth import Truth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="the events, as JSON lines")
    parser.add_argument("truth", type=Path, nargs="?", help="what the engine answered; default: RECORDING.truth.json")
    arguments = parser.parse_args()
    truth_path = arguments.truth or arguments.recording.with_suffix(".truth.json")
    try:
        truth = Truth.read(truth_path)
        with arguments.recording.open("rb") as lines:
            recording = Recording(lines)
            index = MemoryIndex(max_blocks=sys.maxsize)
            feed = Feed(index, truth.model)
            for message in recording:
                feed.apply(message)
    except (OSError, msgspec.DecodeError) as error:
        print(f"check_recording: {error}", file=sys.stderr)
        return 2
    differences = list(truth.differences(index))
    for difference in differences:
        print(
            f"probe {difference.probe}: {difference.rank.pod} rank {difference.rank.number} held {difference.held} "
            f"blocks, the index says {difference.found}"
        )
    for stream in feed:
        if reason := stream.inexact or index.inexact_reason(stream.rank):
            print(f"{stream.rank.pod} rank {stream.rank.number} is inexact: {reason}")
    answers = sum(len(blocks) for _, blocks in truth.probes)
    print(f"{answers - len(differences)} of {answers} answers agree; {recording.malformed} malformed lines")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
