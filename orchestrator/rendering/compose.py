"""A launch as a file for Docker Compose or podman-compose."""

from __future__ import annotations

from typing import Any

import yaml

from orchestrator.health import host_and_port
from orchestrator.launch import Launch
from orchestrator.rendering.portable import IMAGE_USER, Place, portable
from orchestrator.runtimes.base import Mount, RuntimeKind, Workload
from orchestrator.runtimes.hardening import LOG_BYTES, SECOND, docker_restrictions
from service.contract.containers import HOST_NAME

_PLACE = Place(RuntimeKind.DOCKER, rootless=False)


def compose(launch: Launch) -> str:
    """The text of a compose file; secrets are variables that it asks for. Raises Problem."""
    found = portable(launch, _PLACE)
    workload = found.workload
    environment = {name: _literal(value) for name, value in workload.environment.items()}
    environment |= {"HF_TOKEN": "${HF_TOKEN:-}"} if launch.token else {}
    environment |= {name: f"${{{name}:?set {name} in the environment or in .env}}" for name in found.secrets}
    service = {
        "image": workload.image,
        **({"user": workload.user} if workload.user != IMAGE_USER else {}),
        "environment": environment,
        "ports": [f"{host_and_port(one.address, one.port)}:{one.port}" for one in workload.publications],
        "extra_hosts": [f"{HOST_NAME}:host-gateway"],
        "volumes": [
            *(_literal(_mounted(mount)) for mount in workload.mounts),
            *(f"{volume.name}:{volume.target}" for volume in workload.volumes),
        ],
        **({"networks": list(workload.networks)} if workload.networks else {}),
        "restart": "unless-stopped",
        **_restricted(workload),
        "stop_grace_period": f"{launch.stop_seconds}s",
        "logging": {"options": {"max-size": str(LOG_BYTES), "max-file": "2"}},
    }
    document: dict[str, Any] = {"services": {workload.name: service}}
    if workload.volumes:
        # The volumes of `kvcache up`, with what it has downloaded and written.
        document["volumes"] = {volume.name: {"name": volume.name} for volume in workload.volumes}
    if workload.networks:
        document["networks"] = {name: {"external": True} for name in workload.networks}
    text: str = yaml.safe_dump(document, sort_keys=False, width=1000)
    return f"# docker compose --file THIS_FILE up --detach; the image {workload.image} must be there.\n{text}"


def _restricted(workload: Workload) -> dict[str, Any]:
    """The restrictions that `kvcache up` gives docker-py, in the words of Compose."""
    given = docker_restrictions(workload)
    check = given["healthcheck"]
    return {
        **{name: given[name] for name in ("read_only", "cap_drop", "security_opt", "pids_limit")},
        "tmpfs": [f"{target}:{options}" for target, options in given["tmpfs"].items()],
        **({"mem_limit": workload.memory} if workload.memory else {}),
        **({"cpus": workload.cpus} if workload.cpus else {}),
        **({"sysctls": given["sysctls"]} if given["sysctls"] else {}),
        "healthcheck": {
            "test": check["Test"],
            "interval": f"{check['Interval'] // SECOND}s",
            "timeout": f"{check['Timeout'] // SECOND}s",
            "start_period": f"{check['StartPeriod'] // SECOND}s",
            "retries": check["Retries"],
        },
    }


def _mounted(mount: Mount) -> str:
    return f"{mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'},{'Z' if mount.private else 'z'}"


def _literal(text: str) -> str:
    """A text in which Compose replaces no variable."""
    return text.replace("$", "$$")
