"""Removes leftovers of a killed `kvcache`: files of removed services, and builders of dead builds."""

from __future__ import annotations

from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.host.ownership import Owner
from orchestrator.host.state import claim, forget_service, remove_stale_locks, service_folders
from orchestrator.runtimes.base import OWNER_LABEL, ContainerRuntime
from orchestrator.runtimes.deployed import deployed


def sweep(runtime: ContainerRuntime, console: Console) -> None:
    """Removes leftovers of this user on one runtime; best effort, and reports failures."""
    remove_stale_locks()
    for name in service_folders(runtime.kind):
        if runtime.find(name) is None:
            _forget(runtime, name)
    try:
        runtime.remove_leftovers()
        _remove_networks(runtime)
    except Problem as problem:
        console.warn(problem.what, problem.remedy)


def _remove_networks(runtime: ContainerRuntime) -> None:
    """Removes networks of deployments without containers, unless the process lives that may be starting them."""
    for deployment in deployed(runtime) if runtime.networks else ():
        if not deployment.services and runtime.networks:
            for network in deployment.networks:
                owner = Owner.parse(runtime.networks.ours().get(network, {}).get(OWNER_LABEL, ""))
                if owner is None or not owner.lives:
                    runtime.networks.remove(network)


def _forget(runtime: ContainerRuntime, name: str) -> None:
    try:
        with claim(runtime.kind, name):
            if runtime.find(name) is None:
                forget_service(runtime.kind, name)
    except Problem:
        return  # a `kvcache up` is starting it
