"""What every container of ours is allowed, whichever runtime runs it."""

from __future__ import annotations

from orchestrator.runtimes.base import Workload

TMP_BYTES = 64 << 20
LOG_BYTES = 16 << 20
PIDS_LIMIT = 512

_SECOND = 1_000_000_000
# Of the image too; given again since an image in OCI format cannot hold one.
HEALTH_CHECK = {
    "Test": ["CMD", "python", "-m", "service.healthcheck"],
    "Interval": 5 * _SECOND,
    "Timeout": 3 * _SECOND,
    "StartPeriod": 30 * _SECOND,
    "Retries": 3,
}


def sysctls(workload: Workload) -> dict[str, str]:
    """Without capabilities a port below 1024 is bound only if the container's own network says so."""
    if any(published.port < 1024 for published in workload.publications):
        return {"net.ipv4.ip_unprivileged_port_start": "0"}
    return {}
