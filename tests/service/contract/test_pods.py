from __future__ import annotations

import pytest

from service.contract.endpoints import Endpoint
from service.contract.pods import PodEntry, parse_pods


def test_a_pod_is_a_url_with_options() -> None:
    text = "http://10.0.0.7:8000/v1,https://[::1],name=b,events=tcp://h:1,replay=tcp://h:2,model=m,key_file=/k"
    first, second = parse_pods(text)
    assert first == PodEntry("http://10.0.0.7:8000", "10.0.0.7:8000")
    assert (first.host, first.port, first.path, first.endpoint) == ("10.0.0.7", 8000, "", None)
    assert (second.host, second.port, second.is_tls, second.key_file) == ("::1", 443, True, "/k")
    assert second.endpoint == Endpoint("tcp://h:1", pod="b", model="m", replay="tcp://h:2")
    assert parse_pods(f"{first},{second}") == (first, second)
    assert parse_pods(" ") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.7:8000", "is not a valid URL"),
        ("ftp://h", "is not a valid URL"),
        ("http://", "is not a valid URL"),
        ("http://h:99999", "is not a valid URL"),
        ("http://user@h", "is not a valid URL"),
        ("http://h,colour=red", "must be one of name=…"),
        ("http://h,name=", "must be one of name=…"),
        ("http://h,events=h:1", "tcp://"),
        ("http://h:80,http://h", "two pods have the name h:80"),
    ],
)
def test_a_wrong_pod_is_refused_with_the_part_at_fault(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_pods(text)
