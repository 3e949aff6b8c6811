"""Repeatedly starts two services on one port at the same moment: exactly one must come up each time.

    python scripts/one_port.py [--runtime podman] [--count 20]

Needs a built image (`kvcache up` once). Exit code 1 if both or none came up.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["podman", "docker", "process"], default="process")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--image", default="kv-cache-unified-online")
    options = parser.parse_args()
    results: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "XDG_STATE_HOME": state}

        def start(*arguments: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *arguments, "--runtime", options.runtime],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        for _ in range(options.count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            chosen = (
                "--port",
                port,
                "--image",
                options.image,
                "--no-build",
                "--model",
                "builtin/demo",
                "--timeout",
                "120",
            )
            both = [start("up", "-d", "--name", f"kvcache-one-port-{number}", *chosen) for number in (1, 2)]
            outputs = [process.communicate()[0] for process in both]
            came_up = sum(process.returncode == 0 for process in both)
            results[came_up] += 1
            if came_up != 1:
                print(*outputs, sep="\n---\n")
            for number in (1, 2):
                start("down", "--name", f"kvcache-one-port-{number}").communicate()
    print(f"{options.runtime}: exactly one came up {results[1]} times of {options.count}")
    return 0 if results[1] == options.count else 1


if __name__ == "__main__":
    sys.exit(main())
