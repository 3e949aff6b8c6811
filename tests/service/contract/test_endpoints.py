from __future__ import annotations

import re

import pytest

from service.contract.endpoints import Endpoint, HostPort, binds, format_endpoints, host_port, parse_endpoints


def test_one_address_is_one_endpoint() -> None:
    assert parse_endpoints("tcp://localhost:5557") == (Endpoint("tcp://localhost:5557"),)


def test_options_belong_to_the_address_before_them() -> None:
    text = "tcp://a:1,pod=a:8000,model=org/name@v1,replay=tcp://a:2, ipc:///run/events , tcp://[::]:3,pod=x=y"
    assert parse_endpoints(text) == (
        Endpoint("tcp://a:1", pod="a:8000", model="org/name@v1", replay="tcp://a:2"),
        Endpoint("ipc:///run/events"),
        Endpoint("tcp://[::]:3", pod="x=y"),
    )


def test_spaces_around_an_option_are_no_part_of_it() -> None:
    assert parse_endpoints("tcp://a:1, pod = x , replay= tcp://*:2") == (
        Endpoint("tcp://a:1", pod="x", replay="tcp://*:2"),
    )


@pytest.mark.parametrize("address", ["tcp://*:5557", "tcp://[::]:5557", "ipc:///run/events", "inproc://events"])
def test_a_wildcard_or_a_local_name_is_bound(address: str) -> None:
    assert parse_endpoints(address)[0].binds


@pytest.mark.parametrize("address", ["tcp://localhost:5557", "tcp://10.0.0.7:5557", "tcp://[fe80::1]:5557"])
def test_any_other_address_is_connected_to(address: str) -> None:
    assert not parse_endpoints(address)[0].binds


@pytest.mark.parametrize(
    ("text", "offender"),
    [
        ("", "names no address"),
        (" , ", "names no address"),
        ("localhost:5557", "localhost:5557"),
        ("http://localhost:5557", "http://localhost:5557"),
        ("tcp://localhost", "tcp://localhost"),
        ("tcp://:5557", "tcp://:5557"),
        ("tcp://localhost:0", "tcp://localhost:0"),
        ("tcp://localhost:65536", "tcp://localhost:65536"),
        ("tcp://localhost:http", "tcp://localhost:http"),
        ("pod=a,tcp://a:1", "pod=a"),
        ("tcp://a:1,pod=", "pod="),
        ("tcp://a:1,replay=a:2", "a:2"),
        ("tcp://a:1,colour=red", "colour=red"),
        ("ipc://", "ipc://"),
        ("tcp://a:1,colour=red", "pod=, model=, replay="),
        ("tcp://a:1,replay=tcp://*:*", "tcp://*:*"),
        ("tcp://a:1,snapshot=a:2", "a:2"),
        ("tcp://a:1,snapshot=replay", "snapshot=replay of tcp://a:1 needs the address of its replay socket"),
        ("tcp://a:1,tcp://b:1,tcp://a:1", "'tcp://a:1' is named twice"),
        ("tcp://a:1,pod=x,pod=y", "the second pod= of tcp://a:1"),
        ("tcp://a:٥٥٥٧", "tcp://a:٥٥٥٧"),
        ("tcp://a b:1", "tcp://a b:1"),
        ("tcp://a:1;tcp://b:2", "tcp://a:1;tcp://b:2"),
        ("tcp://fe80::1:5557", "tcp://fe80::1:5557"),
    ],
)
def test_what_is_wrong_is_named(text: str, offender: str) -> None:
    with pytest.raises(ValueError, match=re.escape(offender)):
        parse_endpoints(text)


def test_endpoints_are_written_as_they_are_read() -> None:
    text = "tcp://a:1,pod=a:8000,model=org/name@v1,replay=tcp://*:2,ipc:///run/events"
    assert format_endpoints(parse_endpoints(text)) == text


def test_the_addresses_of_an_endpoint_include_its_replay_socket() -> None:
    assert Endpoint("tcp://a:1", replay="tcp://a:2").addresses == ("tcp://a:1", "tcp://a:2")
    assert Endpoint("tcp://a:1", replay="tcp://a:2", snapshot="replay").addresses == ("tcp://a:1", "tcp://a:2")
    assert Endpoint("tcp://a:1", snapshot="tcp://a:3").addresses == ("tcp://a:1", "tcp://a:3")
    assert Endpoint("tcp://a:1").addresses == ("tcp://a:1",)


def test_snapshots_come_from_the_replay_socket_or_from_one_of_their_own() -> None:
    (endpoint,) = parse_endpoints("tcp://a:1,replay=tcp://*:2,snapshot=replay")
    assert endpoint.snapshot_of("a:8000", 3) == endpoint.replay_of("a:8000", 3) == "tcp://a:5"
    (endpoint,) = parse_endpoints("tcp://a:1,snapshot=tcp://*:7")
    assert (endpoint.replay_of("a:8000", 1), endpoint.snapshot_of("a:8000", 1)) == (None, "tcp://a:8")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("tcp://localhost:5557", HostPort("localhost", 5557)),
        ("tcp://[::1]:5557", HostPort("[::1]", 5557)),
        ("tcp://*:*", HostPort("*", None)),
        ("ipc:///run/events", None),
    ],
)
def test_a_tcp_address_has_a_host_and_a_port(address: str, parts: HostPort | None) -> None:
    assert host_port(address) == parts


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_loopback_is_recognised(host: str) -> None:
    assert HostPort(host, 1).is_loopback


@pytest.mark.parametrize("host", ["10.0.0.7", "localhost.example.org", "[fe80::1]", "*"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not HostPort(host, 1).is_loopback


def test_an_ipv6_address_other_than_the_wildcard_is_connected_to() -> None:
    assert not binds("tcp://[fe80::1]:5557")
    assert binds("tcp://[::]:5557")
