"""The facts about the machine around it that a service in a container needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from service.contract.pods import PodEntry, parse_pods

FILE = "pods.json"
"""Where `kvcache discover` tells a service which engines run in containers beside it."""
HOST_NAME = "host.containers.internal"
"""The name by which a container reaches the machine that runs it: predefined in Podman, added for Docker."""


@dataclass(frozen=True, slots=True)
class ContainerPods:
    """The engines' pods in the form of --pod. `beat` changes with each writing, at least once a second.

    `problem` is why the runtime cannot tell them, and `left_out` a sentence about containers that cannot be used.
    """

    service: str
    beat: int
    pods: Sequence[str] = ()
    problem: str | None = None
    left_out: str | None = None

    @property
    def entries(self) -> tuple[PodEntry, ...]:
        """Raises ValueError for a text that is no pod."""
        return tuple(entry for pod in self.pods for entry in parse_pods(pod))


def write_container_pods(pods: ContainerPods) -> str:
    return json.dumps(asdict(pods))


def read_container_pods(text: str | bytes) -> ContainerPods:
    """Raises ValueError for another text."""
    try:
        return ContainerPods(**json.loads(text))
    except TypeError as error:
        raise ValueError(f"it is not written by this version: {error}") from None
