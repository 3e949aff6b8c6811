"""Reads the `inspect` JSON of a container, which is nearly the same in Docker and in Podman."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from orchestrator.errors import Problem
from orchestrator.runtimes.base import NAME_LABEL, Container, Health, Publication, RuntimeKind, Service


def service_from(attributes: Mapping[str, Any], runtime: RuntimeKind) -> Service:
    """Reads the answer of `GET /containers/{name}/json` (Docker API 1.41), or of its libpod equivalent (Podman 4.3)."""
    state = attributes["State"]
    labels = attributes["Config"].get("Labels") or {}
    status = state.get("Status") or "unknown"
    paused = status == "paused"
    running = bool(state.get("Running")) or paused  # Podman reports a paused container as not running
    return Service(
        runtime=runtime,
        name=attributes["Name"].lstrip("/"),
        ours=NAME_LABEL in labels,
        image=attributes.get("ImageName") or attributes["Config"].get("Image") or "",
        state=status,
        running=running,
        health=_health(state),
        paused=paused,
        exit_code=None if running else state.get("ExitCode"),
        out_of_memory=not running and bool(state.get("OOMKilled")),
        started_at=_moment(state.get("StartedAt")) if running else None,
        labels=labels,
        publications=_publications(attributes),
    )


def _health(state: Mapping[str, Any]) -> Health:
    # Podman before 4.0 names it Healthcheck.
    status = (state.get("Health") or state.get("Healthcheck") or {}).get("Status")
    return next((health for health in Health if health == status), Health.UNKNOWN)


def _moment(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _publications(attributes: Mapping[str, Any]) -> tuple[Publication, ...]:
    ports = (attributes.get("NetworkSettings") or {}).get("Ports") or {}
    found = {
        Publication(binding.get("HostIp") or "0.0.0.0", int(binding["HostPort"]))  # noqa: S104 - Podman omits it
        for bindings in ports.values()
        for binding in bindings or ()
    }
    return tuple(sorted(found, key=lambda publication: publication.port))


def refuse_network(name: str, labels: Mapping[str, str] | None) -> None:
    """Raises Problem for a network that is not ours."""
    if NAME_LABEL not in (labels or {}):
        raise Problem(f"The name {name} is taken by a network that is not ours.", "Choose another --name.")


def container_from(attributes: Mapping[str, Any]) -> Container:
    """Reads the same answer for a container that runs, whoever started it."""
    config, settings = attributes["Config"], attributes.get("NetworkSettings") or {}
    labels = config.get("Labels") or {}
    published = {
        _port(port): Publication(bindings[0].get("HostIp") or "0.0.0.0", int(bindings[0]["HostPort"]))  # noqa: S104
        for port, bindings in (settings.get("Ports") or {}).items()
        if bindings and port.endswith("/tcp")
    }
    return Container(
        name=attributes["Name"].lstrip("/"),
        image=attributes.get("ImageName") or config.get("Image") or "",
        ours=NAME_LABEL in labels,
        labels=labels,
        arguments=tuple(map(str, [attributes.get("Path") or "", *(attributes.get("Args") or ())])),
        networks={
            name: network.get("IPAddress") or network.get("GlobalIPv6Address") or ""
            for name, network in (settings.get("Networks") or {}).items()
        },
        on_host_network=(attributes.get("HostConfig") or {}).get("NetworkMode") == "host",
        published=published,
        exposed=tuple(sorted(_port(port) for port in config.get("ExposedPorts") or () if port.endswith("/tcp"))),
    )


def _port(text: str) -> int:
    """The number in a port such as 8000/tcp."""
    return int(text.partition("/")[0])


def wait_gone(is_gone: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Waits briefly for a removal in progress; returns whether the container is gone."""
    deadline = time.monotonic() + seconds
    while not is_gone():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
