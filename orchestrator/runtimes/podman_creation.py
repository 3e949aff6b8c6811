"""A workload in podman-py's words."""

from __future__ import annotations

from typing import Any

from orchestrator.runtimes.base import Mount, Workload
from orchestrator.runtimes.hardening import HEALTH_CHECK, LOG_BYTES, PIDS_LIMIT, TMP_BYTES, sysctls


def creation(workload: Workload) -> dict[str, Any]:
    """The arguments of podman-py's ContainersManager.create."""
    return {
        "image": workload.image,
        "name": workload.name,
        "labels": dict(workload.labels),
        "environment": dict(workload.environment),
        "user": workload.user,
        **({"userns_mode": {"nsmode": "keep-id", "value": _keep_id(workload.user)}} if workload.as_caller else {}),
        "ports": {f"{published.port}/tcp": (published.address, published.port) for published in workload.publications},
        "mounts": [
            # Without a source a folder would be made instead of a file system in memory.
            {"type": "tmpfs", "source": "tmpfs", "target": "/tmp", "size": TMP_BYTES, "mode": "1777"},  # noqa: S108
            *(_mount(mount) for mount in workload.mounts),
        ],
        "volumes": {volume.name: {"bind": volume.target, "mode": "rw"} for volume in workload.volumes},
        "read_only": True,
        "read_write_tmpfs": False,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,
        "pids_limit": PIDS_LIMIT,
        "sysctls": sysctls(workload),
        "healthcheck": HEALTH_CHECK,
        "use_config_proxy": False,
        "log_config": {"Type": "k8s-file", "Config": {"size": LOG_BYTES}},
        "mem_limit": workload.memory,
        **({"cpu_period": 100_000, "cpu_quota": int(workload.cpus * 100_000)} if workload.cpus else {}),
    }


def _keep_id(user: str) -> str:
    uid, gid = user.split(":")
    return f"uid={uid},gid={gid}"


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": str(mount.source),
        "target": mount.target,
        "read_only": mount.read_only,
        "relabel": "Z" if mount.private else "z",
    }
