"""The protocol of a container runtime.

A runtime touches only services that carry its label (`Service.ours`); telling and keeping that is the runtime's duty,
so `stop` and `remove` of anything else do nothing. Methods raise Problem, never an SDK's own error.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

NAME_LABEL = "io.kvcache.name"
OWNER_LABEL = "io.kvcache.owner"
MODEL_LABEL = "io.kvcache.model"
ADDRESS_LABEL = "io.kvcache.address"
PORT_LABEL = "io.kvcache.port"
INSTANCE_LABEL = "io.kvcache.instance"
CONTENT_LABEL = "io.kvcache.content"
LOOPS_LABEL = "io.kvcache.loops"
STAGE_LABEL = "io.kvcache.stage"

# The name by which a container reaches this machine: Podman's own, which Docker is given too.
HOST_NAME = "host.containers.internal"


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
    """A port that is reached at `address` of the host under the number that it has inside."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host inside a container; a `private` one is for no other container (SELinux)."""

    source: Path
    target: str
    read_only: bool
    private: bool = False


@dataclass(frozen=True, slots=True)
class Volume:
    """Storage of the runtime's own that outlives containers."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The service as a runtime is to run it; a child process has no use for what concerns images and mounts."""

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


@dataclass(frozen=True, slots=True)
class Service:
    """A runtime's view of the container or process that has a name."""

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
    """Whether the kernel ended it because it used more memory than it may."""
    started_at: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    publications: tuple[Publication, ...] = ()


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines of a log: the last `tail` of those written since `since` (seconds since the epoch)."""

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
    """Whether to ask the registry for a newer base image under the same name."""
    host_network: bool = False
    """Whether steps use this machine's network, as they must to reach a proxy on its loopback."""


class Images(Protocol):
    """The images of a container runtime."""

    def labels(self, reference: str) -> Mapping[str, str] | None:
        """An image's labels; None when there is no such image here."""
        ...

    def build(self, build: ImageBuild) -> Generator[str, None, None]:
        """Builds and tags; gives the build's output line by line as it comes. Raises BuildFailed.

        Closing it ends the build and what it runs. The image that had the tag before is removed if nothing uses it.
        """
        ...

    def run(self, reference: str, command: Sequence[str]) -> str:
        """Runs a command in a temporary container of a local image and returns its output. Raises Problem."""
        ...

    def prune(self) -> list[str]:
        """Removes images and build stages of ours that no container uses; gives what they were called."""
        ...

    def refusal(self, reference: str) -> str | None:
        """Why a registry would not give an image; None when the image is here or would be given."""
        ...


class ContainerRuntime(Protocol):
    """One place where the service can run. `images` is None where no image is needed."""

    @property
    def kind(self) -> RuntimeKind: ...

    @property
    def description(self) -> str:
        """Its version and where it answers, for people."""
        ...

    @property
    def machine(self) -> str | None:
        """Name of the machine where it runs services and publishes their ports; None for this one."""
        ...

    @property
    def rootless(self) -> bool:
        """Whether root inside a container is an ordinary user outside."""
        ...

    @property
    def images(self) -> Images | None: ...

    def services(self) -> Iterable[Service]:
        """All services of ours, running or not."""
        ...

    def find(self, name: str) -> Service | None:
        """Who has this name, ours or not."""
        ...

    def holder_of_port(self, port: int) -> str | None:
        """The name of what publishes this host port through this runtime."""
        ...

    def refusal_of_address(self, address: str) -> str | None:
        """Why this runtime cannot publish ports on an IP address; None if it can."""
        ...

    def start(self, workload: Workload) -> None:
        """Starts the service. After an error nothing of it is left."""
        ...

    def confirm_health(self, name: str) -> Health:
        """The runtime's own health check of a running service, run anew where the runtime lets us."""
        ...

    def logs(self, name: str, query: LogQuery) -> Iterator[str]:
        """Lines of the service's output, without line ends; with `follow` until it stops."""
        ...

    def run_tool(self, name: str, arguments: Sequence[str]) -> Generator[str, None, None]:
        """Runs `python -m service ARGUMENTS` where a service runs; gives the lines of its output as they come.

        Raises ToolFailed when it ends with another exit code than 0. It ends with the service at the latest.
        """
        ...

    def resume(self, name: str) -> None:
        """Starts a service that was stopped, as it was. Nothing happens if it runs."""
        ...

    def stop(self, name: str, grace: float) -> None:
        """Asks the service to end, and ends it after `grace` seconds. Nothing happens if it does not run."""
        ...

    def remove(self, name: str) -> None:
        """Removes the service, running or not, and all that only it used. Nothing happens if it is not there."""
        ...

    def remove_leftovers(self) -> None:
        """Removes what builds of ours that were killed left behind."""
        ...

    def revive(self) -> None:
        """Starts anew what was started for the connection, if that has ended. Raises RuntimeUnavailable."""
        ...

    def close(self) -> None:
        """Ends the connection, and what was started for it."""
        ...
