"""The containers of one launch: its replicas and, if several need one, a Valkey where they meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from secrets import token_urlsafe
from uuid import uuid4

from orchestrator.host.ports import free_ports
from orchestrator.launch import Launch, several_processes
from orchestrator.runtimes.base import RuntimeKind
from service.contract.settings import FROM_SHARED_STATE

STORE_PORT = 6379


@dataclass(frozen=True, slots=True)
class Store:
    """The Valkey of a deployment: `name` is that of its container, and its host name in `network`."""

    name: str
    network: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deployment:
    """Each of the `replicas` is a launch of one container; a single one has the deployment's name and no store."""

    name: str
    replicas: tuple[Launch, ...]
    store: Store | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its containers."""
        return (*((self.store.name,) if self.store else ()), *(replica.name for replica in self.replicas))

    def title(self, replica: Launch) -> str:
        """The subject of a message about a replica."""
        return "The service" if len(self.replicas) == 1 else f"The replica {replica.name}"


def deployment_of(launch: Launch) -> Deployment:
    """The containers of a launch; port 0 stands for any free port of this machine."""
    ports = free_ports(launch.publish_address, launch.replicas) if not launch.port else ()
    if launch.replicas == 1:
        return Deployment(launch.name, (replace(launch, port=ports[0]) if ports else launch,))
    name = launch.name
    store = Store(f"{name}-valkey", f"{name}-replicas", token_urlsafe(24)) if needs_store(launch) else None
    replicas = (
        replace(replica, port=ports[number] if ports else launch.port + number)
        for number, replica in enumerate(_replicas(launch, store))
    )
    return Deployment(name, tuple(replicas), store)


def needs_store(launch: Launch) -> bool:
    """Whether `up` starts a Valkey: for several replicas that are given none."""
    return launch.replicas > 1 and not launch.environment.get("SHARED_STATE", "").strip()


def check_runtime(launch: Launch, kind: RuntimeKind) -> None:
    """Raises UsageError for several replicas without containers."""
    if kind is RuntimeKind.PROCESS and launch.replicas > 1:
        raise several_processes(launch.replicas)


def _replicas(launch: Launch, store: Store | None) -> Iterator[Launch]:
    shared = {"SHARED_STATE": f"valkey://:{store.password}@{store.name}:{STORE_PORT}"} if store else {}
    if "BOOTSTRAP_FROM" not in launch.environment:
        shared["BOOTSTRAP_FROM"] = FROM_SHARED_STATE
    for number in range(launch.replicas):
        metrics = {} if launch.metrics_port is None else {"METRICS_PORT": str(launch.metrics_port + number)}
        yield replace(
            launch,
            replicas=1,
            deployment=launch.name,
            name=f"{launch.name}-{number + 1}",
            instance=uuid4().hex,
            environment={**launch.environment, **metrics, **shared},
            networks=(*((store.network,) if store else ()), *launch.networks),
            state_dir=launch.state_dir and launch.state_dir / str(number + 1),
            publishes_events=number == 0,
        )
