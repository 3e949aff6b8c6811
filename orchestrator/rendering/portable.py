"""The part that all rendered forms of a launch share: its description without this machine's runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.launch import Launch
from orchestrator.runtimes.base import RuntimeKind, Workload
from orchestrator.workload import described
from service.contract.settings import describe

IMAGE_USER = "10001:10001"
_KEPT = ("MODEL_NAME", "ZMQ_ENDPOINT")
"""Settings that are told even if they are the default, as everybody looks for them."""
_OF_THE_IMAGE: Mapping[str, str] = {"CONTAINER_ENV": "true", "HF_HOME": "/cache/huggingface"}
_OF_ONE_LAUNCH = "INSTANCE_ID"
_OF_THE_HUB: Mapping[str, str] = {"HF_ENDPOINT": Launch().hf_endpoint}


@dataclass(frozen=True, slots=True)
class Place:
    """A runtime that is described for and not asked, perhaps on another machine."""

    kind: RuntimeKind
    rootless: bool
    machine: str | None = None


@dataclass(frozen=True, slots=True)
class Portable:
    """The environment of `workload` has no defaults and no secrets; the variables in `secrets` are secret."""

    workload: Workload
    secrets: tuple[str, ...]


def portable(launch: Launch, place: Place) -> Portable:
    """Describes a launch for a place. Raises Problem for what cannot be described."""
    workload, secrets = described(launch, place, dry=True)
    usual = {**{name: default for name, default, _ in describe()}, **_OF_THE_IMAGE, **_OF_THE_HUB}
    environment = {
        name: value
        for name, value in workload.environment.items()
        if name != _OF_ONE_LAUNCH and (name in _KEPT or value != usual.get(name))
    }
    return Portable(replace(workload, environment=environment, labels={}), tuple(secrets))
