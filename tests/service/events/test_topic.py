from __future__ import annotations

import pytest

from service.contract.endpoints import Endpoint
from service.events.topic import Source, read_topic

CONNECTED = Endpoint("tcp://10.0.0.7:5557")
BOUND = Endpoint("tcp://*:5557")


@pytest.mark.parametrize(
    ("topic", "pod", "model"),
    [
        (
            "kv@10.0.0.1:8000@ibm-granite/granite-3.3-2b-instruct",
            "10.0.0.1:8000",
            "ibm-granite/granite-3.3-2b-instruct",
        ),
        ("kv@pod@model@v2", "pod", "model@v2"),
        ("kv@pod@org/model:tag@@", "pod", "org/model:tag@@"),
        ("kv@[fe80::1%eth0]:8000@m", "[fe80::1%eth0]:8000", "m"),
        ("kv@pöd@modèl", "pöd", "modèl"),
        ("kv@kv@kv@", "kv", "kv@"),
    ],
)
def test_a_topic_names_pod_and_model(topic: str, pod: str, model: str) -> None:
    assert read_topic(topic.encode(), CONNECTED, "default") == Source(pod, model)


@pytest.mark.parametrize("topic", ["", "kv", "kv@", "kv-events", "kv@@", "KV@pod@model"])
def test_a_topic_that_says_nothing_leaves_it_to_the_endpoint(topic: str) -> None:
    named = Endpoint("tcp://10.0.0.7:5557", pod="engine-1", model="m")
    assert read_topic(topic.encode(), named, "default") == Source("engine-1", "m")


def test_what_neither_says_is_the_default_model_and_the_address() -> None:
    assert read_topic(b"", CONNECTED, "default") == Source("10.0.0.7:5557", "default")
    assert read_topic(b"", BOUND, "default", peer="10.0.0.9") == Source("10.0.0.9", "default")
    assert read_topic(b"", BOUND, "default") == Source("*:5557", "default")


def test_a_topic_may_name_the_pod_alone() -> None:
    assert read_topic(b"kv@pod", CONNECTED, "default") == Source("pod", "default")
    assert read_topic(b"kv@pod@", CONNECTED, "default") == Source("pod", "default")
    assert read_topic(b"kv@@model", CONNECTED, "default") == Source("10.0.0.7:5557", "model")


def test_topics_that_are_no_text_are_told_apart() -> None:
    assert read_topic(b"kv@\xff@m", CONNECTED, "d") != read_topic(b"kv@\xfe@m", CONNECTED, "d")
