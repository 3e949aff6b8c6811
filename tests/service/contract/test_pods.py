from __future__ import annotations

import pytest

from service.contract.endpoints import Endpoint, parse_endpoints
from service.contract.pods import PodEntry, parse_pods, with_endpoints_of


def test_a_pod_is_a_url_with_options() -> None:
    text = "http://10.0.0.7:8000/v1,https://[::1],name=b,events=tcp://h:1,replay=tcp://h:2,model=m,key_file=/k"
    first, second = parse_pods(text)
    assert first == PodEntry("http://10.0.0.7:8000", "10.0.0.7:8000")
    assert (first.host, first.port, first.path, first.endpoint) == ("10.0.0.7", 8000, "", None)
    assert (second.host, second.port, second.is_tls, second.key_file) == ("::1", 443, True, "/k")
    assert second.endpoint == Endpoint("tcp://h:1", pod="b", model="m", replay="tcp://h:2")
    assert parse_pods(f"{first},{second}") == (first, second)
    assert parse_pods(" ") == ()
    (shouted,) = parse_pods("HTTPS://h/v1")
    assert (shouted.url, shouted.is_tls, shouted.port) == ("https://h", True, 443)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.7:8000", "is not a valid URL"),
        ("ftp://h", "is not a valid URL"),
        ("http://", "is not a valid URL"),
        ("http://h:99999", "is not a valid URL"),
        ("http://user@h", "is not a valid URL"),
        ("http://h/a\r\nb", "is not a valid URL"),
        ("http://h/a b", "is not a valid URL"),
        ("http://h,name=a\r\nX-Odd: 1", "control character"),
        ("http://h,colour=red", "must be one of name=…"),
        ("http://h,name=", "must be one of name=…"),
        ("http://h,events=h:1", "tcp://"),
        ("http://h:80,http://h", "two pods have the name h:80"),
    ],
)
def test_a_wrong_pod_is_refused_with_the_part_at_fault(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_pods(text)


def test_an_endpoint_with_a_url_is_a_pod_unless_it_is_one_already() -> None:
    endpoints = parse_endpoints(
        "tcp://10.0.0.7:5557,url=http://10.0.0.7:8000/v1/,model=m,tcp://10.0.0.8:5557,tcp://*:5558,pod=c,url=http://c,"
        "tcp://10.0.0.9:5557,pod=d,url=http://10.0.0.9:8000"
    )
    given = parse_pods("http://10.0.0.9:8000,key_file=/k")
    assert with_endpoints_of(given, endpoints) == (
        *given,
        PodEntry("http://10.0.0.7:8000", "10.0.0.7:8000", events="tcp://10.0.0.7:5557", model="m"),
        PodEntry("http://c", "c"),
    )


@pytest.mark.parametrize("url", ["10.0.0.7:8000", "ftp://a", "http://", "http://a:99999", "http://u@a", "http://a?x"])
def test_a_wrong_url_of_an_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL"):
        parse_endpoints(f"tcp://10.0.0.7:5557,url={url}")
