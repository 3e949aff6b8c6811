from __future__ import annotations

import pytest

from orchestrator.endpoints import (
    pods_seen_from_container,
    ports_to_publish,
    seen_from_container,
    shared_state_seen_from_container,
    url_seen_from_container,
)
from orchestrator.errors import UsageError
from service.contract.endpoints import format_endpoints, parse_endpoints
from service.contract.pods import parse_pods


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("tcp://localhost:5557", "tcp://host:5557"),
        ("tcp://127.0.0.1:5557", "tcp://host:5557"),
        ("tcp://127.8.9.1:5557", "tcp://host:5557"),
        ("tcp://[::1]:5557", "tcp://host:5557"),
        ("tcp://LOCALHOST:5557", "tcp://host:5557"),
        ("tcp://10.0.0.7:5557", "tcp://10.0.0.7:5557"),
        ("tcp://localhost.example.org:5557", "tcp://localhost.example.org:5557"),
        ("tcp://*:5557", "tcp://*:5557"),
        (
            "tcp://localhost:5557,pod=a:8000,model=org/m,replay=tcp://localhost:5558, tcp://10.0.0.7:5557",
            "tcp://host:5557,pod=a:8000,model=org/m,replay=tcp://host:5558,tcp://10.0.0.7:5557",
        ),
        ("tcp://10.0.0.7:5557,pod=localhost:8000", "tcp://10.0.0.7:5557,pod=localhost:8000"),
    ],
)
def test_a_loopback_host_becomes_the_name_by_which_a_container_reaches_this_machine(written: str, seen: str) -> None:
    assert format_endpoints(seen_from_container(parse_endpoints(written), "host")) == seen


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("http://localhost:8000", "http://host:8000,name=localhost:8000"),
        ("https://[::1]/llm,events=tcp://127.0.0.1:1", "https://host:443/llm,name=[::1]:443,events=tcp://host:1"),
        ("http://10.0.0.7,name=a", "http://10.0.0.7,name=a"),
    ],
)
def test_a_pod_on_loopback_keeps_its_name_inside_a_container(written: str, seen: str) -> None:
    assert ",".join(map(str, pods_seen_from_container(parse_pods(written), "host"))) == seen


def test_ports_of_bound_endpoints_are_published_and_no_others() -> None:
    text = "tcp://*:5557,replay=tcp://*:5561,tcp://10.0.0.7:5558,replay=tcp://10.0.0.7:5559,tcp://[::]:5560"
    assert ports_to_publish(parse_endpoints(text)) == [5557, 5560]


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/events", "inproc://events", "tcp://*:*", "tcp://127.0.0.1:*"])
def test_what_cannot_be_reached_inside_a_container_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="cannot be bound from inside a container"):
        ports_to_publish(parse_endpoints(endpoint))


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("http://localhost:9000", "http://host:9000"),
        ("https://127.0.0.1/base", "https://host:443/base"),
        ("http://[::1]:9000", "http://host:9000"),
        ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
    ],
)
def test_a_url_of_this_machine_has_another_name_in_a_container(written: str, seen: str) -> None:
    assert url_seen_from_container(written, "host") == seen
    endpoints = parse_endpoints(f"tcp://10.0.0.7:5557,url={written}")
    assert seen_from_container(endpoints, "host")[0].url == seen


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("valkey://localhost", "valkey://host"),
        ("valkeys://me:a%40b@127.0.0.1:6380/2?ca=/ca.pem", "valkeys://me:a%40b@host:6380/2?ca=/run/files/ca.pem"),
        ("redis://:pass@[::1]:6379", "redis://:pass@host:6379"),
        ("valkey+sentinel://localhost,10.0.0.2:26380/main", "valkey+sentinel://host,10.0.0.2:26380/main"),
        ("valkey://[fd00::1]:6379", "valkey://[fd00::1]:6379"),
    ],
)
def test_a_store_of_this_machine_has_another_name_in_a_container(written: str, seen: str) -> None:
    assert shared_state_seen_from_container(written, "host", {"/ca.pem": "/run/files/ca.pem"}) == seen
