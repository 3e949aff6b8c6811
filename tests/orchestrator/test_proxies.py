from __future__ import annotations

import pytest

from orchestrator.proxies import has_password, on_loopback, proxies, seen_from_container


def test_only_proxy_variables_that_are_set_count() -> None:
    assert proxies({"HTTP_PROXY": "http://a:1", "no_proxy": "b", "https_proxy": "", "PATH": "/bin"}) == {
        "HTTP_PROXY": "http://a:1",
        "no_proxy": "b",
    }


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("http://127.0.0.1:3128", "http://host:3128"),
        ("http://me:secret@localhost:3128/", "http://me:secret@host:3128/"),
        ("localhost:3128", "host:3128"),
        ("http://proxy.example.org:3128", "http://proxy.example.org:3128"),
    ],
)
def test_a_proxy_on_loopback_is_reached_by_the_name_of_this_machine(written: str, seen: str) -> None:
    assert seen_from_container({"HTTPS_PROXY": written}, "host") == {"HTTPS_PROXY": seen}
    assert on_loopback(written) == (written != seen)


def test_hosts_that_need_no_proxy_are_left_as_they_are() -> None:
    assert seen_from_container({"NO_PROXY": "localhost"}, "host") == {"NO_PROXY": "localhost"}


def test_a_proxy_with_a_password_is_recognised() -> None:
    assert has_password("http://me:secret@proxy:3128")
    assert not has_password("http://proxy:3128")
