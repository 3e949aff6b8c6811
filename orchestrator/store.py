"""The Valkey where the replicas of a deployment meet, as a container: no published port, a password, nothing kept."""

from __future__ import annotations

from orchestrator.deployment import STORE_PORT, Store
from orchestrator.host.ownership import Owner
from orchestrator.host.secrets import write_secret
from orchestrator.host.state import make_service_folder, service_folder
from orchestrator.image import valkey_image
from orchestrator.launch import Launch
from orchestrator.runtimes.base import (
    NAME_LABEL,
    OWNER_LABEL,
    STORE_LABEL,
    ContainerRuntime,
    Mount,
    Workload,
)

_FILE = "valkey.conf"
_TARGET = f"/run/secrets/{_FILE}"
_USER = "10001:10001"
_MEMORY = 2 << 30
"""Twice its `maxmemory`, which does not count the buffers of connections."""


def network_labels(launch: Launch) -> dict[str, str]:
    """Labels of a deployment's network: until a container is in it, it lasts as long as its owner."""
    return {NAME_LABEL: launch.name, OWNER_LABEL: str(Owner.this_process())}


def prepare_store(launch: Launch, store: Store, runtime: ContainerRuntime, *, dry: bool = False) -> Workload:
    """The Valkey's description for this runtime. Unless `dry`, writes its configuration, which holds the password.

    The images of Valkey and of Redis start their server with a file that ends in .conf, or with options.
    """
    settings = {
        "port": str(STORE_PORT),
        "requirepass": store.password,
        "save": "",
        "appendonly": "no",
        "dir": "/tmp",  # noqa: S108 - of the container, in memory
        "maxmemory": "1gb",
        "maxmemory-policy": "noeviction",
    }
    mounts: tuple[Mount, ...] = ()
    if runtime.machine:  # it cannot mount files of this machine
        arguments = tuple(word for name, value in settings.items() for word in (f"--{name}", value))
    else:
        text = "".join(f"{name} {value or chr(34) * 2}\n" for name, value in settings.items())
        file = (
            service_folder(runtime.kind, store.name) / _FILE
            if dry
            else write_secret(make_service_folder(runtime.kind, store.name), _FILE, text)
        )
        mounts, arguments = (Mount(file, _TARGET, read_only=True, private=True),), (_TARGET,)
    return Workload(
        name=store.name,
        labels={
            NAME_LABEL: launch.name,
            STORE_LABEL: "true",
            **({} if launch.detach else {OWNER_LABEL: str(Owner.this_process())}),
        },
        environment={},
        image=valkey_image(launch),
        arguments=arguments,
        mounts=mounts,
        user=_USER,
        memory=None if runtime.rootless else _MEMORY,
        networks=(store.network,),
        restart=launch.restart,
        is_service=False,
    )
