"""The protocol of a container runtime.

A runtime touches only services that carry its label (`Service.ours`) and must enforce this itself: `stop` and `remove`
of any other container do nothing. Methods raise Problem, never an SDK's own error.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

NAME_LABEL = "io.kvcache.name"
"""The name of the deployment: of the service, or what is common to the names of its replicas."""
STORE_LABEL = "io.kvcache.store"
"""Present on the Valkey of a deployment."""
OWNER_LABEL = "io.kvcache.owner"
MODEL_LABEL = "io.kvcache.model"
ADDRESS_LABEL = "io.kvcache.address"
PORT_LABEL = "io.kvcache.port"
TLS_LABEL = "io.kvcache.tls"
"""Present if the service listens for HTTPS."""
STOP_LABEL = "io.kvcache.stop-seconds"
"""Present if a stop waits longer than `STOP_SECONDS` for the service."""
STOP_SECONDS = 10
INSTANCE_LABEL = "io.kvcache.instance"
READY_LABEL = "io.kvcache.ready-replay-timeout"
"""Present if READY_REPLAY_TIMEOUT is set, with its value."""
CONTENT_LABEL = "io.kvcache.content"
LOOPS_LABEL = "io.kvcache.loops"
STAGE_LABEL = "io.kvcache.stage"
"""Stands in the first layer of a stage, so that it marks what an interrupted build leaves behind, too."""
BUILD_STAGE = "build"
STAGES = (BUILD_STAGE, "service", "valkey-build", "valkey")


class RuntimeKind(StrEnum):
    PODMAN = "podman"
    DOCKER = "docker"
    PROCESS = "process"

    @property
    def noun(self) -> str:
        """The noun for a running service in messages: container or process."""
        return "process" if self is RuntimeKind.PROCESS else "container"


class Health(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Publication:
    """A port, published at `address` of the host under the same number."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host inside a container; `private`: not shared with other containers (SELinux)."""

    source: Path
    target: str
    read_only: bool
    private: bool = False


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of the runtime, which outlives containers."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The description of a service for a runtime; a child process ignores the fields about images and mounts."""

    name: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    publications: tuple[Publication, ...] = ()
    image: str = ""
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    user: str = ""
    as_caller: bool = False
    cpus: float | None = None
    memory: int | None = None
    networks: tuple[str, ...] = ()
    restart: str = "no"
    lives_with_parent: bool = False
    arguments: tuple[str, ...] = ()
    """Arguments of the image's program; empty for the image's own."""
    is_service: bool = True
    """Whether it has the service's health check."""


@dataclass(frozen=True, slots=True)
class Service:
    """A runtime's view of a named container or process."""

    runtime: RuntimeKind
    name: str
    ours: bool
    image: str
    state: str
    running: bool
    health: Health
    paused: bool = False
    exit_code: int | None = None
    out_of_memory: bool = False
    """Whether the kernel killed it because it exceeded its memory limit."""
    started_at: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    publications: tuple[Publication, ...] = ()

    @property
    def tls(self) -> bool:
        """Whether it listens for HTTPS."""
        return TLS_LABEL in self.labels

    @property
    def stop_seconds(self) -> float:
        """The time after which it is killed if it is stopped."""
        return float(self.labels.get(STOP_LABEL, STOP_SECONDS))

    @property
    def deployment(self) -> str:
        """The name of the deployment that it belongs to, which is its own name if it is all of it."""
        return self.labels.get(NAME_LABEL, self.name)

    @property
    def is_store(self) -> bool:
        """Whether it is the Valkey of a deployment."""
        return STORE_LABEL in self.labels


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Selects log lines: the last `tail` of those written since `since` (Unix seconds)."""

    tail: int | None = None
    since: float | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True)
class ImageBuild:
    """The input of an image build: a tar archive with a Containerfile at its root, arguments and labels."""

    reference: str
    context: bytes
    arguments: Mapping[str, str]
    labels: Mapping[str, str]
    pull: bool = False
    """Whether to check the registry for a newer base image under the same name."""
    host_network: bool = False
    """Whether steps use this machine's network, which is needed to reach a proxy on its loopback."""


# What a runtime tells of containers and networks that may change which engines there are; Docker's and Podman's names.
CONTAINER_EVENTS = ("start", "die", "died", "destroy", "remove", "pause", "unpause", "rename", "connect", "disconnect")


@dataclass(frozen=True, slots=True)
class Container:
    """A running container, whoever started it. `networks` are its addresses by the name of the network.

    `published` is where this machine publishes its TCP ports, `exposed` are the TCP ports that its image names.
    """

    name: str
    image: str
    ours: bool
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    networks: Mapping[str, str]
    on_host_network: bool
    published: Mapping[int, Publication]
    exposed: tuple[int, ...]


class Containers(Protocol):
    def running(self) -> Iterable[Container]:
        """All that run and are not paused."""
        ...

    def join(self, name: str, network: str) -> None:
        """Connects a container to a network."""
        ...

    def changes(self) -> Iterator[None]:
        """Yields at once, and whenever a container or its networks may have changed.

        Uses a connection of its own, so that another thread may iterate.
        """
        ...


class Images(Protocol):
    def labels(self, reference: str) -> Mapping[str, str] | None:
        """An image's labels; None if the image does not exist locally."""
        ...

    def build(self, build: ImageBuild) -> Generator[str, None, None]:
        """Builds and tags; yields the build's output line by line. Raises BuildFailed.

        Closing the iterator stops the build and its steps. The image that had the tag before is removed if unused.
        """
        ...

    def remove_old_stages(self) -> None:
        """Removes stages of ended builds; keeps the last build stage, which the next build uses.

        Call it only while nothing is built: the stages of a build that runs look the same.
        """
        ...

    def run(self, reference: str, command: Sequence[str]) -> str:
        """Runs a command in a temporary container of a local image and returns its output. Raises Problem."""
        ...

    def prune(self) -> list[str]:
        """Removes our unused images and build stages; returns their names."""
        ...

    def refusal(self, reference: str) -> str | None:
        """The reason why an image cannot be pulled; None if it is here or can be pulled."""
        ...

    def pull(self, reference: str) -> None:
        """Fetches an image from its registry. Raises Problem."""
        ...


class Networks(Protocol):
    """Networks in which containers reach each other by name. Those without our label are never touched."""

    def create(self, name: str, labels: Mapping[str, str]) -> None:
        """No effect on one of ours that exists. Raises Problem, also for one of that name that is not ours."""
        ...

    def ours(self) -> Mapping[str, Mapping[str, str]]:
        """The labels of each network of ours, by its name."""
        ...

    def remove(self, name: str) -> None:
        """No effect if it does not exist or is not ours. Raises Problem while a container uses it."""
        ...


class ContainerRuntime(Protocol):
    """A place where the service can run. Without containers, `images`, `networks` and `containers` are None."""

    @property
    def kind(self) -> RuntimeKind: ...

    @property
    def description(self) -> str:
        """Its version and address, for messages."""
        ...

    @property
    def machine(self) -> str | None:
        """Name of the machine where it runs services and publishes their ports; None for this machine."""
        ...

    @property
    def rootless(self) -> bool:
        """Whether root inside a container is an ordinary user outside."""
        ...

    @property
    def images(self) -> Images | None: ...

    @property
    def networks(self) -> Networks | None: ...

    @property
    def containers(self) -> Containers | None: ...

    def services(self) -> Iterable[Service]:
        """All services of ours, running or not."""
        ...

    def find(self, name: str) -> Service | None:
        """The container or process with this name, ours or not."""
        ...

    def holder_of_port(self, port: int) -> str | None:
        """The name of the container that publishes this host port through this runtime."""
        ...

    def refusal_of_address(self, address: str) -> str | None:
        """The reason why this runtime cannot publish ports on an IP address; None if it can."""
        ...

    def start(self, workload: Workload) -> None:
        """Starts the service. After an error nothing of it is left behind."""
        ...

    def confirm_health(self, name: str) -> Health:
        """The result of the runtime's own health check, run immediately if the runtime allows it."""
        ...

    def logs(self, name: str, query: LogQuery) -> Iterator[str]:
        """Lines of the service's output, without line ends; with `follow`, until the service stops."""
        ...

    def run_tool(self, name: str, arguments: Sequence[str]) -> Generator[str, None, None]:
        """Runs `python -m service ARGUMENTS` where a service runs; yields its output lines.

        Raises ToolFailed for an exit code other than 0. The tool ends with the service at the latest.
        """
        ...

    def resume(self, name: str) -> None:
        """Starts a stopped service with its previous configuration. No effect if it runs."""
        ...

    def stop(self, name: str, grace: float) -> None:
        """Asks the service to stop, and kills it after `grace` seconds. No effect if it does not run."""
        ...

    def remove(self, name: str) -> None:
        """Removes the service, running or not, and everything that only it used. No effect if it does not exist."""
        ...

    def remove_leftovers(self) -> None:
        """Removes leftovers of our killed builds."""
        ...

    def revive(self) -> None:
        """Restarts the helper process of the connection if it has exited. Raises RuntimeUnavailable."""
        ...

    def close(self) -> None:
        """Closes the connection and its helper process."""
        ...
