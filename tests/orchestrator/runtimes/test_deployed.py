from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from orchestrator.errors import Problem
from orchestrator.runtimes import deployed as module
from orchestrator.runtimes.base import NAME_LABEL, STORE_LABEL, ContainerRuntime, Health, RuntimeKind, Service
from orchestrator.runtimes.deployed import deployed, found_deployed, named
from orchestrator.runtimes.process import Processes


def _service(name: str, deployment: str | None = None, *, store: bool = False) -> Service:
    labels = {NAME_LABEL: deployment or name, **({STORE_LABEL: "true"} if store else {})}
    return Service(RuntimeKind.PODMAN, name, True, "", "running", True, Health.HEALTHY, labels=labels)


class _Networks:
    def create(self, name: str, labels: Mapping[str, str]) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def ours(self) -> Mapping[str, Mapping[str, str]]:
        return {"kv-replicas": {NAME_LABEL: "kv"}, "left-replicas": {NAME_LABEL: "left"}}


class _Runtime(Processes):
    networks = _Networks()  # type: ignore[assignment]

    def services(self) -> Iterator[Service]:
        numbers = (10, 2, 1)
        yield from (_service(f"kv-{number}", "kv") for number in numbers)
        yield _service("alone")
        yield _service("kv-valkey", "kv", store=True)


def test_containers_are_found_by_the_label_of_their_deployment_the_valkey_first() -> None:
    found = {one.name: one for one in deployed(_Runtime())}
    assert [service.name for service in found["kv"].services] == ["kv-valkey", "kv-1", "kv-2", "kv-10"]
    assert [service.name for service in found["kv"].replicas] == ["kv-1", "kv-2", "kv-10"]
    assert found["kv"].networks == ("kv-replicas",)
    assert [one.is_one_service for one in (found["alone"], found["kv"])] == [True, False]


def test_a_deployment_of_which_only_the_network_is_left_is_found_too() -> None:
    left = named(deployed(_Runtime()), "left")
    assert left is not None
    assert (left.services, left.networks) == ((), ("left-replicas",))


def test_one_container_of_several_can_be_named_alone() -> None:
    found = named(deployed(_Runtime()), "kv-2")
    assert found is not None
    assert ([service.name for service in found.services], found.networks) == (["kv-2"], ())
    assert named(deployed(_Runtime()), "kv-3") is None


class _OnDocker(_Runtime):
    kind = RuntimeKind.DOCKER

    def services(self) -> Iterator[Service]:
        yield _service("alone")


def test_a_name_on_several_runtimes_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def answering(kind: RuntimeKind | None, _: object) -> Iterator[ContainerRuntime]:
        yield from (runtime for runtime in (_OnDocker(), _Runtime()) if kind in {None, runtime.kind})

    monkeypatch.setattr(module, "answering", answering)
    with pytest.raises(Problem) as refused, found_deployed("alone", None):
        pass
    assert refused.value.what == "There is a service named alone on docker and on process."
    assert "--runtime docker" in refused.value.remedy
    with found_deployed("alone", RuntimeKind.DOCKER) as (runtime, _):
        assert runtime.kind is RuntimeKind.DOCKER
    with found_deployed("kv", None) as (runtime, found):
        assert (runtime.kind, found.name) == (RuntimeKind.PROCESS, "kv")
