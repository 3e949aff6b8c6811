"""The containers that run on Docker, whoever started them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import docker

from orchestrator.runtimes.base import CONTAINER_EVENTS, Container
from orchestrator.runtimes.docker_errors import docker_errors
from orchestrator.runtimes.inspection import container_from


class DockerContainers:
    """Implements runtimes.base.Containers."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def running(self) -> Iterator[Container]:
        with docker_errors("list containers"):
            found = self._client.containers.list(ignore_removed=True)
        for container in found:
            if container.status == "running":
                yield container_from(container.attrs)

    def join(self, name: str, network: str) -> None:
        with docker_errors(f"connect the service to the network {network}"):
            self._client.networks.get(network).connect(name)

    def changes(self) -> Iterator[None]:
        with (
            docker_errors("tell its events"),
            closing(docker.DockerClient.from_env(use_ssh_client=True)) as client,
            closing(client.events(filters={"event": [*CONTAINER_EVENTS]})) as events,
        ):
            yield None
            for _ in events:
                yield None
