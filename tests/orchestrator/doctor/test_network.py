from __future__ import annotations

import socket

import pytest

from orchestrator.doctor.finding import Severity
from orchestrator.doctor.network import check_events, check_exposure, check_pods, check_ports, check_shared_state
from orchestrator.launch import Launch
from orchestrator.runtimes.process import Processes
from tests.command import free_port


@pytest.fixture
def runtime(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Processes:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Processes()


def test_a_taken_port_is_a_problem_that_names_who_has_it(runtime: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (finding,) = check_ports(Launch(port=server.getsockname()[1]), runtime)
    assert finding.severity is Severity.PROBLEM
    assert "(process " in finding.text

    (finding,) = check_ports(Launch(port=free_port()), runtime)
    assert finding.severity is Severity.OK


def test_an_engine_that_is_not_there_yet_is_no_problem(runtime: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there, nowhere = server.getsockname()[1], free_port()
        launch = Launch(zmq_endpoint=f"tcp://localhost:{there},replay=tcp://127.0.0.1:{nowhere},tcp://*:{nowhere}")
        answers, silent = check_events(launch, runtime)

    assert answers.severity is Severity.OK
    assert silent.severity is Severity.WARNING
    assert f"nothing answers at tcp://127.0.0.1:{nowhere} (Connection refused)" in silent.text


def test_a_name_without_an_address_is_to_be_corrected(runtime: Processes) -> None:
    (unknown,) = check_events(Launch(zmq_endpoint="tcp://engine.invalid:5557"), runtime)
    assert unknown.severity is Severity.WARNING
    assert "engine.invalid cannot be resolved" in unknown.text
    assert unknown.remedy == "Correct the name, or the DNS of this machine."


def test_a_pod_that_does_not_answer_is_a_problem_unless_a_network_may_know_its_name(runtime: Processes) -> None:
    pods = f"http://127.0.0.1:{free_port()}"
    (here,) = check_pods(Launch(pods=pods), runtime)
    (elsewhere,) = check_pods(Launch(pods=pods, networks=("llm",)), runtime)
    assert (here.severity, elsewhere.severity) == (Severity.PROBLEM, Severity.WARNING)


def test_where_replicas_meet_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there, nowhere = server.getsockname()[1], free_port()
        answers, silent = (
            finding
            for port in (there, nowhere)
            for finding in check_shared_state(Launch(environment={"SHARED_STATE": f"valkey://localhost:{port}"}))
        )
    assert (answers.severity, answers.text) == (Severity.OK, f"something answers at localhost:{there}")
    assert silent.severity is Severity.WARNING
    assert f"nothing answers at localhost:{nowhere} (Connection refused)" in silent.text
    assert list(check_shared_state(Launch())) == []


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (Launch(), "only this machine reaches the service, at 127.0.0.1"),
        (Launch(publish_address="0.0.0.0", environment={"API_KEYS": "a:read:sk-0123456789abcdef"}), "an API key"),
        (Launch(publish_address="0.0.0.0"), "everyone who reaches 0.0.0.0"),
    ],
)
def test_who_may_use_the_service_is_said_in_one_sentence(launch: Launch, said: str) -> None:
    assert said in check_exposure(launch).text
