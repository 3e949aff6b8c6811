from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from orchestrator.commands import down as command
from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from orchestrator.runtimes.process import Processes
from tests.command import Commands
from tests.orchestrator.launched import Up


class _OnDocker(Processes):
    """The same services, as those of another runtime."""

    kind = RuntimeKind.DOCKER


def test_a_name_on_several_runtimes_is_removed_on_none_until_one_is_named(
    kvcache: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = Up(kvcache)
    assert up.run("--detach").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(kvcache.state.parent))
    shutil.copytree(kvcache.state / "process", kvcache.state / "docker")

    def answering(kind: RuntimeKind | None, _: object) -> Iterator[ContainerRuntime]:
        yield from (runtime for runtime in (_OnDocker(), Processes()) if kind in {None, runtime.kind})

    monkeypatch.setattr(command, "answering", answering)
    with pytest.raises(Problem) as refused:
        command.down(up.name, None, Console(quiet=True))
    assert refused.value.what == f"There is a service named {up.name} on docker and on process."
    assert f"kvcache down {up.name} --runtime docker" in refused.value.remedy
    assert up.get("/health") == (200, "OK")

    command.down(up.name, RuntimeKind.PROCESS, Console(quiet=True))
    assert up.left() == []
