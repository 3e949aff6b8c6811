from __future__ import annotations

import re

import pytest

from service.contract.endpoints import Endpoint, parse_endpoints


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
