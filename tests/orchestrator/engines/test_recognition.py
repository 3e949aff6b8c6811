from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.engines.recognition import NotUsable, addresses, engine_in, published
from orchestrator.runtimes.base import Container, Publication

PLAIN = Container(
    name="a",
    image="docker.io/library/redis:7",
    ours=False,
    labels={},
    arguments=("redis-server",),
    networks={"bridge": "172.17.0.5"},
    on_host_network=False,
    published={},
    exposed=(6379,),
)
VLLM = replace(PLAIN, image="docker.io/vllm/vllm-openai:v0.33.0", arguments=("vllm", "serve", "m"), exposed=())


@pytest.mark.parametrize(
    ("image", "port"),
    [
        ("docker.io/vllm/vllm-openai:v0.33.0", 8000),
        ("vllm/vllm-openai@sha256:0a", 8000),
        ("registry.example:5000/team/vllm-cpu:latest", 8000),
        ("rocm/vllm", 8000),
        ("lmsysorg/sglang:v0.5.23-cu129", 30000),
        ("registry.example/vllm-router:1", None),
        ("example/sglang-router", None),
        ("example/notvllm:1", None),
        ("kv-cache-unified-online", None),
    ],
)
def test_engines_are_recognised_by_the_name_of_their_image(image: str, port: int | None) -> None:
    engine = engine_in(replace(PLAIN, image=image))
    assert (engine and engine.port) == port


@pytest.mark.parametrize("arguments", [("--port", "9000"), ("--port=9000",), ("sh", "-c", "vllm serve m --port 9000")])
def test_an_engines_own_port_option_counts(arguments: tuple[str, ...]) -> None:
    engine = engine_in(replace(VLLM, arguments=arguments))
    assert engine is not None and engine.port == 9000


def test_labels_make_any_container_an_engine_or_none() -> None:
    labels = {
        "kvcache.pod": "true",
        "kvcache.port": "9001",
        "kvcache.events": "5557",
        "kvcache.replay": "5558",
        "kvcache.model": "m",
        "kvcache.scheme": "https",
    }
    engine = engine_in(replace(PLAIN, labels=labels))
    assert engine is not None
    assert str(engine.entry("fd00::1")) == (
        "https://[fd00::1]:9001,name=a,events=tcp://[fd00::1]:5557,replay=tcp://[fd00::1]:5558,model=m"
    )
    alone = engine_in(replace(PLAIN, labels={"kvcache.pod": "true"}))
    assert alone is not None and alone.port == 6379  # the only port of its image
    assert engine_in(replace(VLLM, labels={"kvcache.pod": "false"})) is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"kvcache.pod": "8000"}, "kvcache.pod=8000 must be true or false"),
        ({"kvcache.pod": "true", "kvcache.port": "http"}, "kvcache.port=http is no port"),
        ({"kvcache.pod": "true"}, "its port is not known"),
    ],
)
def test_labels_that_are_not_valid_are_named(labels: dict[str, str], said: str) -> None:
    with pytest.raises(NotUsable, match=said):
        engine_in(replace(PLAIN, labels=labels, exposed=()))


def test_an_engine_is_reached_in_a_network_of_both_or_on_this_machine() -> None:
    service = replace(PLAIN, name="service", networks={"bridge": "172.17.0.2"})
    engine = engine_in(VLLM)
    beside = engine_in(replace(VLLM, networks={"other": "10.0.0.2"}))
    host = engine_in(replace(VLLM, networks={"host": ""}, on_host_network=True))
    assert engine is not None and beside is not None and host is not None
    assert list(addresses(engine, service)) == ["172.17.0.5"]
    assert list(addresses(beside, service)) == []
    assert list(addresses(host, service)) == ["host.containers.internal"]


def test_a_published_port_is_reached_unless_it_is_on_loopback() -> None:
    engine = engine_in(replace(VLLM, published={8000: Publication("0.0.0.0", 18000)}))
    closed = engine_in(replace(VLLM, published={8000: Publication("127.0.0.1", 18000)}))
    silent = engine_in(VLLM)
    assert engine is not None and closed is not None and silent is not None
    outside = published(engine)
    assert outside is not None and outside.entry("host").url == "http://host:18000"
    assert published(closed) is None
    assert published(silent) is None
