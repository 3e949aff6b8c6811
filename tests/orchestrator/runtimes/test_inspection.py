from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from orchestrator.runtimes.base import Container, Health, Publication, RuntimeKind, Service
from orchestrator.runtimes.inspection import container_from, service_from

# Fields that are read, as dockerd 20.10 gave them.
_DOCKER: dict[str, Any] = {
    "Name": "/kv-test",
    "Image": "sha256:123",
    "Config": {"Image": "kv-image", "Labels": {"io.kvcache.name": "kv-test"}},
    "State": {
        "Status": "running",
        "Running": True,
        "ExitCode": 0,
        "StartedAt": "2026-01-31T12:00:00.123456789Z",
        "Health": {"Status": "starting"},
    },
    "NetworkSettings": {"Ports": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "5557/tcp": None}},
}
# And Podman 4.3.
_PODMAN: dict[str, Any] = {
    "Name": "kv-test",
    "ImageName": "localhost/kv-image:latest",
    "Config": {"Image": "localhost/kv-image:latest", "Labels": None},
    "State": {"Status": "exited", "Running": False, "ExitCode": 3, "StartedAt": "2026-01-31T12:00:00.1+01:00"},
    "NetworkSettings": {"Ports": {"8080/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
}


def test_a_running_container_of_docker() -> None:
    assert service_from(_DOCKER, RuntimeKind.DOCKER) == Service(
        runtime=RuntimeKind.DOCKER,
        name="kv-test",
        ours=True,
        image="kv-image",
        state="running",
        running=True,
        health=Health.STARTING,
        started_at=datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC).timestamp(),
        labels={"io.kvcache.name": "kv-test"},
        publications=(Publication("127.0.0.1", 8080),),
    )


def test_a_container_of_podman_that_ended_and_is_not_ours() -> None:
    assert service_from(_PODMAN, RuntimeKind.PODMAN) == Service(
        runtime=RuntimeKind.PODMAN,
        name="kv-test",
        ours=False,
        image="localhost/kv-image:latest",
        state="exited",
        running=False,
        health=Health.UNKNOWN,
        exit_code=3,
        publications=(Publication("0.0.0.0", 8080),),
    )


def test_a_paused_container_runs_and_says_so() -> None:
    state = {**_PODMAN["State"], "Status": "paused", "ExitCode": 0}
    found = service_from({**_PODMAN, "State": state}, RuntimeKind.PODMAN)
    assert (found.running, found.paused, found.exit_code) == (True, True, None)


def test_a_container_that_ran_out_of_memory_says_so() -> None:
    state = {**_PODMAN["State"], "OOMKilled": True, "ExitCode": 137}
    assert service_from({**_PODMAN, "State": state}, RuntimeKind.PODMAN).out_of_memory
    assert not service_from(_PODMAN, RuntimeKind.PODMAN).out_of_memory


def test_a_container_of_somebody_else_with_its_addresses_and_ports() -> None:
    attributes = {
        **_PODMAN,
        "Path": "vllm",
        "Args": ["serve", "m"],
        "Config": {"Image": "vllm/vllm-openai", "Labels": None, "ExposedPorts": {"8000/tcp": {}, "53/udp": {}}},
        "NetworkSettings": {
            "Ports": {"8000/tcp": [{"HostIp": "", "HostPort": "18000"}], "53/udp": None},
            "Networks": {"podman": {"IPAddress": "10.88.0.5"}, "six": {"GlobalIPv6Address": "fd00::5"}},
        },
    }
    assert container_from(attributes) == Container(
        name="kv-test",
        image="localhost/kv-image:latest",
        ours=False,
        labels={},
        arguments=("vllm", "serve", "m"),
        networks={"podman": "10.88.0.5", "six": "fd00::5"},
        on_host_network=False,
        published={8000: Publication("0.0.0.0", 18000)},
        exposed=(8000,),
    )
