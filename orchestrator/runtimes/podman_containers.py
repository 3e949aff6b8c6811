"""The containers that run on Podman, whoever started them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from podman.errors import APIError

from orchestrator.runtimes.base import CONTAINER_EVENTS, Container
from orchestrator.runtimes.inspection import container_from
from orchestrator.runtimes.podman_api import PodmanApi, is_gone, podman_errors


class PodmanContainers:
    """Implements runtimes.base.Containers."""

    def __init__(self, client: Any, api: PodmanApi) -> None:
        self._client = client
        self._api = api

    def running(self) -> Iterator[Container]:
        with podman_errors("list containers"):
            names = [found.name for found in self._client.containers.list()]
        for name in names:
            with podman_errors("inspect a container"):
                try:
                    attributes = self._client.containers.get(name).attrs
                except APIError as error:
                    if not is_gone(error):
                        raise
                    continue
            if attributes["State"].get("Status") == "running":
                yield container_from(attributes)

    def join(self, name: str, network: str) -> None:
        with podman_errors(f"connect the service to the network {network}"):
            self._client.networks.get(network).connect(name)

    def changes(self) -> Iterator[None]:
        asked = {"stream": "true", "filters": json.dumps({"event": [*CONTAINER_EVENTS]})}
        with (
            podman_errors("tell its events"),
            self._api.client() as client,
            closing(client.api.get("/events", params=asked, stream=True)) as events,
        ):
            events.raise_for_status()
            yield None
            for _ in events.iter_lines():
                yield None
