"""`kvcache discover`: tells a service which engines run in containers beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orchestrator.console import Console
from orchestrator.engines.following import Following
from orchestrator.errors import Problem
from orchestrator.host.signals import ShutdownRequested, Signals
from orchestrator.host.state import claim_following, discovered_folder, service_folder
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.deployed import found_deployed

_PACKAGES = Path(__file__).resolve().parent.parent.parent


def discover(name: str, kind: RuntimeKind | None, console: Console) -> None:
    """Follows the containers until the service is removed, or a signal. Raises Problem.

    The service must have been started with `--discovery containers`.
    """
    with Signals() as signals, found_deployed(name, kind) as (runtime, found):
        if len(found.replicas) != 1:
            raise Problem(
                f"{name} has several replicas.", f"Name one: {', '.join(replica.name for replica in found.replicas)}"
            )
        (service,) = found.replicas
        name = service.name
        folder = discovered_folder(runtime.kind, name)
        if runtime.containers is None or not folder.is_dir():
            raise Problem(
                f"The service {name} on {runtime.kind} does not ask which engines run in containers.",
                "Start it with: kvcache up --discovery containers",
            )
        with claim_following(runtime.kind, name):
            console.step(f"Following the containers of {runtime.kind} for {name}")
            following = Following(runtime, runtime.containers, service, folder)
            try:
                following.until_the_service_is_gone(signals.check, console.step)
            except ShutdownRequested:
                console.step("Received shutdown signal")
                return
        console.step(f"The service {name} is gone")


def discover_in_background(name: str, kind: RuntimeKind) -> None:
    """Starts `kvcache discover` as a process of its own, which ends when the service is removed."""
    found = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "orchestrator", "discover", name, "--runtime", kind.value]
    with (service_folder(kind, name) / "discover.log").open("wb") as log:
        subprocess.Popen(  # noqa: S603 - our own command
            command,
            env={**os.environ, "PYTHONPATH": found},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C is for `up`, which removes the service
        )
