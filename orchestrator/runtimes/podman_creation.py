"""Converts a workload to arguments of podman-py."""

from __future__ import annotations

from typing import Any

from orchestrator.runtimes.base import Mount, Workload
from orchestrator.runtimes.hardening import LOG_BYTES, podman_restrictions


def creation(workload: Workload) -> dict[str, Any]:
    """The arguments of podman-py's ContainersManager.create."""
    restrictions = podman_restrictions(workload)
    return {
        **restrictions,
        "image": workload.image,
        **({"command": list(workload.arguments)} if workload.arguments else {}),
        "name": workload.name,
        "labels": dict(workload.labels),
        "environment": dict(workload.environment),
        "ports": {f"{published.port}/tcp": (published.address, published.port) for published in workload.publications},
        "mounts": [*restrictions["mounts"], *map(_mount, workload.mounts)],
        "volumes": {volume.name: {"bind": volume.target, "mode": "rw"} for volume in workload.volumes},
        **({"networks": {name: {} for name in workload.networks}} if workload.networks else {}),
        **({"restart_policy": {"Name": workload.restart}} if workload.restart != "no" else {}),
        "log_config": {"Type": "k8s-file", "Config": {"size": LOG_BYTES}},
    }


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": str(mount.source),
        "target": mount.target,
        "read_only": mount.read_only,
        "relabel": "Z" if mount.private else "z",
    }
