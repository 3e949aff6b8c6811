"""Ends `kvcache up` at random moments, from its first second to a running service, and counts the leftovers.

    python scripts/interrupts.py [--runtime podman] [--count 40] [--seed 1]

Signals take turns: INT, TERM, HUP, KILL. Each `up` builds a changed service, so that many signals interrupt a build.
After each, another `up` and `down` run, which must leave nothing: container, builder, mount, folder, process.
Prints a table; exit code 1 if anything was left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
NAME = "kvcache-interrupts"


@dataclass
class Row:
    """Results of one signal."""

    moments: int = 0
    codes: set[int] = field(default_factory=set)
    left_by_up: int = 0
    left_in_the_end: list[str] = field(default_factory=list)


class Host:
    """One checkout, state folder and runtime."""

    def __init__(self, runtime: str, folder: Path) -> None:
        self.runtime = runtime
        self.root = folder / "checkout"
        self.state = folder / "state"
        ignored = shutil.ignore_patterns("__pycache__")
        for part in ("orchestrator", "service"):
            shutil.copytree(ROOT / part, self.root / part, ignore=ignored)
        shutil.copy(ROOT / "Containerfile", self.root)
        self._environment = {**os.environ, "XDG_STATE_HOME": str(self.state), "KVCACHE_INTERRUPTS": str(folder)}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def up(self, port: int) -> subprocess.Popen[bytes]:
        (self.root / "service" / "changed.py").write_text(f"# {time.time()}\n")
        options = ("--runtime", self.runtime, "--name", NAME, "--image", NAME, "--port", str(port))
        return self.start("up", *options, "--model", "builtin/demo")

    def down(self) -> None:
        """Removes the running service."""
        self.start("down", NAME, "--runtime", self.runtime).wait()

    def next_up(self) -> None:
        """A further `up` and `down`, which must remove leftovers. (`down --all` would remove services of others.)"""
        options = ("--runtime", self.runtime, "--name", NAME, "--image", NAME, "--port", str(free_port()))
        self.start("up", "-d", "--no-build", *options, "--model", "builtin/demo").wait()
        self.down()

    def left(self, pids: set[int]) -> Iterator[str]:
        """All leftovers of `up`s that ran as these processes."""
        if self.runtime != "process":
            listed = self._ask("ps", "-a", "--filter", f"name={NAME}", "--format", "{{.Names}}").split()
            yield from (f"container {name}" for name in listed)
            # A broken image keeps Podman from listing any.
            listing = subprocess.run([self.runtime, "images", "--all"], check=False, capture_output=True, text=True)
            if listing.returncode:
                yield f"image: {listing.stderr.strip()}"
        if self.runtime == "podman":
            yield from self._left_builders(pids)
        yield from (f"file {path}" for path in self.state.rglob("*") if path.is_file())
        for folder in [*Path("/var/tmp").glob("kvcache-podman-*"), *Path("/tmp").glob("kvcache-podman-*")]:  # noqa: S108
            if _pid((folder / "owner").read_text() if (folder / "owner").exists() else "") in pids:
                yield f"folder {folder}"
        for process in psutil.process_iter():
            try:
                if process.environ().get("KVCACHE_INTERRUPTS") == self._environment["KVCACHE_INTERRUPTS"]:
                    yield f"process {' '.join(process.cmdline())}"
            except psutil.Error:
                continue

    def _left_builders(self, pids: set[int]) -> Iterator[str]:
        mounts = Path("/proc/mounts").read_text()
        graph_root = Path(self._ask("info", "--format", "{{.Store.GraphRoot}}"))
        for path in graph_root.glob("*-containers/*/userdata/buildah.json"):
            try:
                record = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if _pid((record.get("Args") or {}).get("KVCACHE_OWNER", "")) in pids:
                yield f"builder {record['container-name']}"
                if record.get("mountpoint") and record["mountpoint"] in mounts:
                    yield f"mount {record['mountpoint']}"

    def _ask(self, *arguments: str) -> str:
        return subprocess.run([self.runtime, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _pid(owner: str) -> int | None:
    parts = owner.rsplit("/", 2)
    return int(parts[1]) if len(parts) == 3 else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _seconds_of_a_whole_up(host: Host) -> float:
    started = time.monotonic()
    process = host.start(
        *("up", "-d", "--runtime", host.runtime, "--name", NAME, "--image", NAME),
        *("--port", str(free_port()), "--model", "builtin/demo"),
    )
    if process.wait() != 0:
        raise SystemExit(f"`kvcache up` on {host.runtime} does not work here")
    seconds = time.monotonic() - started
    host.down()
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["podman", "docker", "process"], default="process")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # A script in the background ignores Ctrl+C, one under nohup ignores HUP, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    chance = random.Random(options.seed)
    rows = {number: Row() for number in SIGNALS}
    with tempfile.TemporaryDirectory() as folder:
        host = Host(options.runtime, Path(folder))
        _seconds_of_a_whole_up(host)  # with an empty cache
        (host.root / "service" / "changed.py").write_text("# first\n")
        whole = _seconds_of_a_whole_up(host)
        pids = set()
        for turn in range(options.count):
            number = SIGNALS[turn % len(SIGNALS)]
            row = rows[number]
            process = host.up(free_port())
            pids.add(process.pid)
            moment = chance.uniform(0.05, whole * 1.1)
            time.sleep(moment)
            process.send_signal(number)
            row.moments += 1
            row.codes.add(code := process.wait())
            left_by_up = len(list(host.left(pids)))
            host.next_up()
            left = list(host.left(pids))
            row.left_by_up += left_by_up
            row.left_in_the_end += left
            ended = f"{turn + 1}: {number.name} after {moment:.1f} s, code {code}"
            print(f"{ended}, left {left_by_up}, then {left}", file=sys.stderr)
        if options.runtime != "process":
            subprocess.run([options.runtime, "rmi", "-f", NAME], check=False, capture_output=True)
    print(f"{options.runtime}: a whole `up` of a changed service takes {whole:.1f} s\n")
    print("| signal | moments | exit codes | left by `up` | left after the next `up` |")
    print("| --- | --- | --- | --- | --- |")
    for number, row in rows.items():
        codes = ", ".join(map(str, sorted(row.codes)))
        print(f"| {number.name} | {row.moments} | {codes} | {row.left_by_up} | {len(row.left_in_the_end)} |")
    wrong = [left for row in rows.values() for left in row.left_in_the_end]
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
