"""All privileges and limits of the container, for Podman and for Docker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.runtimes.base import Workload

LOG_BYTES = 16 << 20
_TMP_BYTES = 64 << 20
_PIDS_LIMIT = 512

SECOND = 1_000_000_000
# The image sets the same health check; repeated because the OCI image format cannot store it.
_NO_HEALTH_CHECK: Mapping[str, Any] = {"Test": ["NONE"]}
HEALTH_CHECK: Mapping[str, Any] = {
    "Test": ["CMD", "python", "-m", "service.healthcheck"],
    "Interval": 5 * SECOND,
    "Timeout": 3 * SECOND,
    "StartPeriod": 30 * SECOND,
    "Retries": 3,
}


def podman_restrictions(workload: Workload) -> dict[str, Any]:
    """Arguments of podman-py's ContainersManager.create."""
    # Without a source, Podman would create a folder instead of an in-memory file system.
    tmp = {"type": "tmpfs", "source": "tmpfs", "target": "/tmp", "size": _TMP_BYTES, "mode": "1777"}  # noqa: S108
    return {
        **_common(workload),
        "mounts": [tmp],
        "read_write_tmpfs": False,
        "no_new_privileges": True,
        **({"userns_mode": {"nsmode": "keep-id", "value": _keep_id(workload.user)}} if workload.as_caller else {}),
        **({"cpu_period": 100_000, "cpu_quota": int(workload.cpus * 100_000)} if workload.cpus else {}),
    }


def docker_restrictions(workload: Workload) -> dict[str, Any]:
    """Arguments of docker-py's ContainerCollection.create."""
    return {
        **_common(workload),
        "tmpfs": {"/tmp": f"size={_TMP_BYTES},mode=1777"},  # noqa: S108
        "security_opt": ["no-new-privileges"],
        **({"nano_cpus": int(workload.cpus * 1e9)} if workload.cpus else {}),
    }


def flags(workload: Workload) -> list[str]:
    """The same as options of `podman run` and `docker run`."""
    return [
        *(["--user", workload.user] if workload.user else []),
        "--read-only",
        *("--tmpfs", f"/tmp:size={_TMP_BYTES},mode=1777"),  # noqa: S108
        *("--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges"),
        *("--pids-limit", str(_PIDS_LIMIT)),
        *(["--memory", str(workload.memory)] if workload.memory else []),
        *(["--cpus", f"{workload.cpus:g}"] if workload.cpus else []),
        *([] if workload.is_service else ["--no-healthcheck"]),
        *(["--userns", f"keep-id:{_keep_id(workload.user)}"] if workload.as_caller else []),
        *(f"--sysctl={name}={value}" for name, value in _sysctls(workload).items()),
    ]


def _common(workload: Workload) -> dict[str, Any]:
    return {
        "user": workload.user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "pids_limit": _PIDS_LIMIT,
        "mem_limit": workload.memory,
        "sysctls": _sysctls(workload),
        "healthcheck": HEALTH_CHECK if workload.is_service else _NO_HEALTH_CHECK,
        "use_config_proxy": False,
    }


def _sysctls(workload: Workload) -> dict[str, str]:
    """Without capabilities, a port below 1024 can be bound only if the container's own network allows it."""
    if any(published.port < 1024 for published in workload.publications):
        return {"net.ipv4.ip_unprivileged_port_start": "0"}
    return {}


def _keep_id(user: str) -> str:
    uid, gid = user.split(":")
    return f"uid={uid},gid={gid}"
