"""Removes leftovers of a killed `kvcache`: files of removed services, and builders of dead builds."""

from __future__ import annotations

from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.host.state import claim, forget_service, remove_stale_locks, service_folders
from orchestrator.runtimes.base import ContainerRuntime


def sweep(runtime: ContainerRuntime, console: Console) -> None:
    """Removes leftovers of this user on one runtime; best effort, and reports failures."""
    remove_stale_locks()
    for name in service_folders(runtime.kind):
        if runtime.find(name) is None:
            _forget(runtime, name)
    try:
        runtime.remove_leftovers()
    except Problem as problem:
        console.warn(problem.what, problem.remedy)


def _forget(runtime: ContainerRuntime, name: str) -> None:
    try:
        with claim(runtime.kind, name):
            if runtime.find(name) is None:
                forget_service(runtime.kind, name)
    except Problem:
        return  # a `kvcache up` is starting it
