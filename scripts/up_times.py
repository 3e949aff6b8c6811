"""Measures `kvcache up -d` of a first, a changed and an unchanged service on one runtime, and with a wheel.

    python -m scripts.up_times [--runtime podman] [--wheel FILE]

The first `up` builds every layer on the base image (KVCACHE_BASE_IMAGE); the changed one has one changed file of the
service. Prints a row of a table. A child process has no build: its three times are the same `up`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.interrupts import Host, free_port

_NAME = "kvcache-up-times"


def _seconds(host: Host, *more: str) -> float:
    started = time.monotonic()
    options = ("--runtime", host.runtime, "--name", _NAME, "--image", _NAME, "--port", str(free_port()))
    process = host.start("up", "-d", *options, "--model", "builtin/demo", "--timeout", "120", *more)
    if process.wait() != 0:
        raise SystemExit(f"`kvcache up` on {host.runtime} does not work here")
    seconds = time.monotonic() - started
    host.start("down", _NAME, "--runtime", host.runtime).wait()
    return seconds


def _without_layers(host: Host) -> None:
    """Changes the first step of the image, so that no layer of earlier builds is used."""
    containerfile = host.root / "Containerfile"
    label = "LABEL io.kvcache.stage=build\n"
    fresh = f"{label}ENV KVCACHE_UP_TIMES={time.time_ns()}\n"
    containerfile.write_text(containerfile.read_text().replace(label, fresh))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["podman", "docker", "process"], default="process")
    parser.add_argument("--wheel", type=Path, help="also measure a first `up` with the loops of this wheel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        host = Host(options.runtime, Path(folder))
        _without_layers(host)
        first = _seconds(host)
        (host.root / "service" / "changed.py").touch()
        changed = _seconds(host)
        unchanged = _seconds(host)
        row = [options.runtime, f"{first:.1f} s", f"{changed:.1f} s", f"{unchanged:.1f} s"]
        if options.wheel:
            (host.root / "service" / "changed.py").unlink()
            containerfile = host.root / "Containerfile"
            containerfile.write_text(
                containerfile.read_text().replace("ENV KVCACHE_UP_TIMES=", "ENV KVCACHE_UP_TIMES=1")
            )
            row.append(f"{_seconds(host, '--wheel', str(options.wheel.resolve())):.1f} s")
        if options.runtime != "process":
            subprocess.run([options.runtime, "rmi", "-f", _NAME], check=False, capture_output=True)
    print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
