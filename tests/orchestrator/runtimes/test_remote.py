from __future__ import annotations

import pytest

from orchestrator.runtimes.remote import remote_machine


@pytest.mark.parametrize(
    ("address", "machine"),
    [
        ("unix:///var/run/docker.sock", None),
        ("http+unix://%2Frun%2Fpodman.sock", None),
        ("npipe:////./pipe/docker_engine", None),
        ("ssh://core@127.0.0.1:50000/run/podman.sock", None),
        ("tcp://localhost:2375", None),
        ("tcp://docker:2375", "docker"),
        ("ssh://me@build.example.org", "build.example.org"),
    ],
)
def test_a_runtime_is_on_another_machine_if_its_address_says_so(address: str, machine: str | None) -> None:
    assert remote_machine(address) == machine
