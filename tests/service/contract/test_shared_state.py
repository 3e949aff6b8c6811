from __future__ import annotations

import pytest

from service.contract.settings import Settings, SettingsError
from service.contract.shared_state import ValkeyAddress, parse_prefix, parse_shared_state


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("valkey://host", ValkeyAddress((("host", 6379),))),
        ("redis://[::1]:7000/3", ValkeyAddress((("::1", 7000),), database=3)),
        ("rediss://:p%40ss@host", ValkeyAddress((("host", 6379),), tls=True, password="p@ss")),  # noqa: S106
        (
            "valkeys://me:word@host?ca=/ca.pem&password_file=/run/word",
            ValkeyAddress(
                (("host", 6379),),
                tls=True,
                username="me",
                password="word",  # noqa: S106
                ca="/ca.pem",
                password_file="/run/word",  # noqa: S106
            ),
        ),
        (
            "valkey+sentinel://a,b:5/main/2",
            ValkeyAddress((("a", 26379), ("b", 5)), "sentinel", service="main", database=2),
        ),
        ("valkeys+cluster://a:1,b:2", ValkeyAddress((("a", 1), ("b", 2)), "cluster", tls=True)),
    ],
)
def test_an_address_says_where_replicas_meet(text: str, address: ValkeyAddress | None) -> None:
    assert parse_shared_state(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "host:6379",
        "http://host",
        "valkey://",
        "valkey://host:0",
        "valkey://host/x",
        "valkey+sentinel://host",
        "valkey+cluster://host/1",
        "valkey://host?ca=/x",
        "valkey://host?what=1",
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|files"):
        parse_shared_state(text)


def test_no_password_is_shown() -> None:
    address = parse_shared_state("valkey://me:secret@host")
    assert "secret" not in f"{address} {address!r}"
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"SHARED_STATE": "valkey://me:secret@host/x"})
    assert "secret" not in str(refused.value)


def test_a_prefix_has_no_braces() -> None:
    assert parse_prefix(" fleet-1 ") == "fleet-1"
    with pytest.raises(ValueError, match="letters"):
        parse_prefix("a{b}")
