"""A container runtime as its own command sees it, beside `kvcache`, which is under test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.command import Command, Commands, free_port
from tests.conftest import ROOT
from tests.waiting import PATIENCE

_LISTINGS = 100


class RuntimeCommand:
    """`podman` or `docker`; names what tests make so that nothing of anybody else's is touched."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.image = f"kvcache-e2e-{os.getpid()}"
        self.sleep = f"sleep 6{os.getpid()}.25"
        """A build step that lasts, and that no other process runs."""

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Runs the runtime's own command; gives what it prints."""
        done = self._run(*arguments)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.kind, *arguments], check=False, capture_output=True, text=True)

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", "--type", "container", name))
        return dict(found)

    def containers(self) -> set[str]:
        """All there are, those of builds included."""
        external = ["--external"] if self.kind == "podman" else []
        for _ in range(_LISTINGS):
            done = self._run("ps", "--all", "--quiet", "--no-trunc", *external)
            if "container not known" not in done.stderr:  # Podman was listing one of a build while it was removed
                break
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    def sleeps(self) -> bool:
        """Whether the build step that lasts runs anywhere on this machine."""
        command = self.sleep.split()
        return any(process.info["cmdline"] == command for process in psutil.process_iter(["cmdline"]))

    def clean_up(self) -> None:
        for name in self("ps", "-a", "--filter", f"name={self.image}", "--format", "{{.Names}}").split():
            self("rm", "--force", name, check=False)
        for volume in self("volume", "ls", "--quiet", "--filter", f"name={self.image}").split():
            self("volume", "rm", "--force", volume, check=False)
        self("rmi", "--force", self.image, f"{self.image}-valkey", check=False)


class Up:
    """A service that `kvcache up` runs in a container of its own name, on a port of its own."""

    def __init__(self, runtime: RuntimeCommand, kvcache: Commands, suffix: str) -> None:
        self.runtime = runtime
        self.kvcache = kvcache
        self.name = f"{runtime.image}-{suffix}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, *more: str, environment: Mapping[str, str] | None = None) -> Command:
        options = ("--runtime", self.runtime.kind, "--name", self.name, "--image", self.runtime.image)
        where = ("--port", str(self.port), "--model", "builtin/demo", "--timeout", str(PATIENCE))
        return self.kvcache.start("up", *options, *where, *more, environment=environment)

    @property
    def folder(self) -> Path:
        """What the host keeps for it."""
        return self.kvcache.state / self.runtime.kind / self.name

    def left(self) -> list[str]:
        """What is left of it; volumes stay, and locks of a killed command until the next one."""
        folders = [str(path) for path in self.folder.parent.glob(f"{self.name}*") if path.is_dir()]
        return [*self._listed("ps", "--all"), *self._listed("network", "ls"), *folders]

    def _listed(self, *listing: str) -> list[str]:
        column = "{{.Names}}" if "ps" in listing else "{{.Name}}"
        return self.runtime(*listing, "--filter", f"name={self.name}", "--format", column).split()

    def remove(self) -> None:
        """Removes all of it, volumes too."""
        for name in self._listed("ps", "--all"):
            self.runtime("rm", "--force", name, check=False)
        for volume in self._listed("volume", "ls"):
            self.runtime("volume", "rm", "--force", volume, check=False)
        for network in self._listed("network", "ls"):
            self.runtime("network", "rm", network, check=False)


class Replicas(Up):
    """An `up` of several replicas on any free ports."""

    COUNT = 3

    def __init__(self, runtime: RuntimeCommand, kvcache: Commands, suffix: str) -> None:
        super().__init__(runtime, kvcache, suffix)
        self.names = [f"{self.name}-{number + 1}" for number in range(self.COUNT)]
        self.store = f"{self.name}-valkey"

    def start(self, *more: str, environment: Mapping[str, str] | None = None) -> Command:
        return super().start("--replicas", str(self.COUNT), "--port", "0", *more, environment=environment)

    def run(self, *arguments: str) -> str:
        """A command about this runtime that succeeds; gives what it says."""
        done = self.kvcache.run(*arguments, "--runtime", self.runtime.kind)
        assert done.code == 0, done.output
        return done.output

    def statuses(self) -> dict[str, dict[str, Any]]:
        """What `status` says of each container."""
        listed = json.loads(self.run("status", "--json"))
        return {status["name"]: status for status in listed if status["deployment"] == self.name}

    def urls(self) -> list[str]:
        """Where the replicas answer."""
        statuses = self.statuses()
        return [f"http://{statuses[name]['ports'][0]}" for name in self.names]


def checkout(folder: Path) -> Path:
    """A copy of what an image is built from and with, for tests that change it."""
    for part in ("orchestrator", "service"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Containerfile", folder)
    # Wheels that a developer put there are part of the image, too.
    shutil.copytree(ROOT / "wheels", folder / "wheels")
    return folder
