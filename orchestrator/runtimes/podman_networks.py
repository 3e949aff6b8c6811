"""Podman's networks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from podman.errors import NotFound

from orchestrator.runtimes.base import NAME_LABEL
from orchestrator.runtimes.inspection import refuse_network
from orchestrator.runtimes.podman_api import podman_errors


class PodmanNetworks:
    """Implements runtimes.base.Networks."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def create(self, name: str, labels: Mapping[str, str]) -> None:
        with podman_errors(f"create the network {name}"):
            try:
                refuse_network(name, self._client.networks.get(name).attrs.get("labels"))
            except NotFound:
                self._client.networks.create(name, driver="bridge", labels=dict(labels), dns_enabled=True)

    def ours(self) -> Mapping[str, Mapping[str, str]]:
        with podman_errors("list networks"):
            found = self._client.networks.list(filters={"label": NAME_LABEL})
            return {str(network.name): network.attrs.get("labels") or {} for network in found}

    def remove(self, name: str) -> None:
        if name in self.ours():
            with podman_errors(f"remove the network {name}"), suppress(NotFound):
                self._client.networks.get(name).remove()
