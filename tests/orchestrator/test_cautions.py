from __future__ import annotations

import socket

import pytest

from orchestrator.cautions import cautions, is_host_renamed
from orchestrator.doctor.finding import Severity
from orchestrator.doctor.network import check_events, check_pods
from orchestrator.launch import Launch
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.process import Processes
from orchestrator.workload import prepare
from service.contract.containers import HOST_NAME


class Contained(Processes):
    """A runtime that runs the service in a container, as far as addresses are concerned."""

    kind = RuntimeKind.PODMAN


def test_an_engine_on_loopback_only_is_told_before_a_container_starts_and_by_doctor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        launch = Launch(pods=f"http://localhost:{port}", zmq_endpoint=f"tcp://127.0.0.1:{port}")
        (found,) = cautions(launch, Contained())
        (pod,), (events,) = check_pods(launch, Contained()), check_events(launch, Contained())
        assert list(cautions(launch, Processes())) == []
        assert next(check_pods(launch, Processes())).severity is Severity.OK

    assert f"does not reach http://localhost:{port} and tcp://127.0.0.1:{port}, which listen on loopback" in found.what
    assert "--runtime process" in found.remedy
    assert "--host 0.0.0.0" in found.remedy
    assert pod.severity is events.severity is Severity.WARNING
    assert pod.remedy == found.remedy


def test_a_container_gets_another_name_for_localhost_in_pod_and_nothing_else() -> None:
    assert is_host_renamed(Launch(pods="http://10.0.0.7:8000,http://localhost:8000"), Contained())
    assert not is_host_renamed(Launch(pods="http://10.0.0.7:8000"), Contained())
    assert not is_host_renamed(Launch(), Contained())
    assert not is_host_renamed(Launch(pods="http://localhost:8000"), Processes())


def test_a_store_on_loopback_only_is_told_before_a_container_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        launch = Launch(zmq_endpoint="", environment={"SHARED_STATE": f"valkey://{address}"})
        (found,) = cautions(launch, Contained())
    assert f"does not reach {address}, which listens on loopback only" in found.what


@pytest.mark.parametrize(
    ("launch", "why"),
    [
        (Launch(valkey_image="valkey:9", zmq_endpoint=""), "one replica needs no Valkey"),
        (
            Launch(replicas=2, valkey_image="valkey:9", zmq_endpoint="", environment={"SHARED_STATE": "valkey://x"}),
            "the replicas meet at SHARED_STATE",
        ),
    ],
)
def test_an_image_of_a_store_that_is_not_started_has_no_effect(launch: Launch, why: str) -> None:
    (found,) = cautions(launch, Contained())
    assert found.what == f"--valkey-image has no effect: {why}."


def test_an_engine_on_every_interface_is_reached_from_a_container() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        launch = Launch(pods=f"http://localhost:{server.getsockname()[1]}", zmq_endpoint="")
        assert list(cautions(launch, Contained())) == []
        (pod,) = check_pods(launch, Contained())
    assert pod.severity is Severity.OK

    (pod,) = check_pods(launch, Contained())
    assert "Connection refused" in pod.text


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (Launch(cpus=1, memory=1 << 30), "--cpus and --memory have no effect on a child process"),
        (Launch(networks=("n",)), "--network has no effect on a child process"),
    ],
)
def test_limits_of_containers_are_told_to_have_no_effect_on_a_child_process(launch: Launch, said: str) -> None:
    assert [said in caution.what for caution in cautions(launch, Processes())] == [True]
    assert list(cautions(launch, Contained())) == []


def test_a_collector_of_traces_on_this_machine_is_named_as_a_container_sees_it_and_its_headers_are_a_secret() -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer 123",
        "OTEL_SERVICE_NAME": "router",
    }
    started = prepare(Launch(environment=environment), Contained(), dry=True)
    assert started.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://{HOST_NAME}:4318"
    assert started.environment["OTEL_SERVICE_NAME"] == "router"
    assert "Bearer 123" not in str(started)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("http://localhost:8081", f"http://{HOST_NAME}:8081"),
        ("https://127.0.0.1:8081", f"https://{HOST_NAME}:8081"),
        ("http://sibling:8080", "http://sibling:8080"),
        ("shared", "shared"),
    ],
)
def test_a_replica_on_this_machine_to_start_from_is_named_as_a_container_sees_it(given: str, seen: str) -> None:
    environment = {"BOOTSTRAP_FROM": given, "SHARED_STATE": "valkey://valkey:6379"}
    assert prepare(Launch(environment=environment), Contained(), dry=True).environment["BOOTSTRAP_FROM"] == seen
    assert prepare(Launch(environment=environment), Processes(), dry=True).environment["BOOTSTRAP_FROM"] == given
