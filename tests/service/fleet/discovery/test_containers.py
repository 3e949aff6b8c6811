from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.containers import ContainerPods, read_container_pods, write_container_pods
from service.fleet.discovery.containers import ContainerPodsFile
from service.fleet.discovery.discovery import Discovery
from service.fleet.registry import Registry
from tests.service.fleet.discovery.conftest import Discover
from tests.waiting import until

POD = "http://10.88.0.5:8000,name=a"


class Watched:
    def __init__(self, path: Path, registry: Registry, discover: Discover, silent: float) -> None:
        self._path = path
        self._registry = registry
        self._beat = 0
        self._discovery: Discovery = discover(ContainerPodsFile(path, interval=0.005, silent=silent))

    @property
    def problem(self) -> str:
        return self._discovery.reports()[0].problem or ""

    @property
    def names(self) -> list[str]:
        return [pod.name for pod in self._registry]

    def write(self, *pods: str, problem: str | None = None, left_out: str | None = None) -> None:
        self._beat += 1
        new = self._path.with_suffix(".new")
        new.write_text(write_container_pods(ContainerPods("kv", self._beat, pods, problem, left_out)))
        new.replace(self._path)


@pytest.fixture
def watched(tmp_path: Path, registry: Registry, discover: Discover) -> Callable[[float], Watched]:
    return lambda silent: Watched(tmp_path / "pods.json", registry, discover, silent)


def test_both_halves_understand_the_file() -> None:
    pods = ContainerPods("kv", 7, [POD], None, "b is left out")
    assert read_container_pods(write_container_pods(pods)) == pods
    assert [entry.name for entry in pods.entries] == ["a"]
    with pytest.raises(ValueError, match="not written by this version"):
        read_container_pods('{"other": 1}')


async def test_engines_come_and_go_with_what_the_host_writes(watched: Callable[[float], Watched]) -> None:
    file = watched(100.0)
    await until(lambda: "no `kvcache discover` has written yet" in file.problem)
    file.write(POD, left_out="b is left out")
    await until(lambda: file.names == ["a"] and file.problem == "b is left out")
    file.write()
    await until(lambda: file.names == [] and not file.problem)


async def test_the_last_engines_are_kept_while_the_runtime_does_not_tell(watched: Callable[[float], Watched]) -> None:
    file = watched(100.0)
    file.write(POD)
    await until(lambda: file.names == ["a"])
    file.write(problem="Podman did not answer")
    await until(lambda: file.problem == "Podman did not answer")
    assert file.names == ["a"]
    file.write(POD)
    await until(lambda: not file.problem)


async def test_a_file_that_is_not_written_any_more_is_told_with_what_to_start(
    watched: Callable[[float], Watched],
) -> None:
    file = watched(0.05)
    file.write(POD)
    await until(lambda: "start it on the host: kvcache discover kv" in file.problem)
    assert file.names == ["a"]
    file.write()
    await until(lambda: file.names == [])
