from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service.contract.discovery import parse_discovery
from service.fleet.discovery.discovery import Discovery
from service.fleet.discovery.kubernetes import kubernetes_pods
from service.fleet.registry import Registry
from tests.service.certificates import Authority
from tests.service.conftest import Serve
from tests.service.engines import chat, engine_starter
from tests.service.fleet.discovery.conftest import Discover
from tests.service.fleet.discovery.kubernetes_api import (
    PODS,
    SLICES,
    KubernetesApi,
    endpoint_slice,
    kubeconfig,
    kubernetes_api,
    pod,
)
from tests.service.gateway.routed import CHAT, Routed
from tests.waiting import until


@pytest.fixture
async def api() -> AsyncIterator[KubernetesApi]:
    async with kubernetes_api(PODS) as started:
        yield started


class Followed:
    """The registry that follows one source of Kubernetes."""

    def __init__(self, source: str, config: Path, registry: Registry, discover: Discover) -> None:
        (entry,) = parse_discovery(f"{source}{'&' if '?' in source else '?'}kubeconfig={config}")
        self.registry = registry
        self._discovery: Discovery = discover(kubernetes_pods(entry))

    def has(self, **pods: bool) -> Callable[[], bool]:
        """Whether there are these pods, by the last number of their address, and whether each drains."""
        return lambda: {f"p{pod.entry.host.rpartition('.')[2]}": pod.is_draining for pod in self.registry} == pods

    def says(self, problem: str) -> Callable[[], bool]:
        return lambda: problem in (self._discovery.reports()[0].problem or "")

    @property
    def is_failing(self) -> bool:
        return self._discovery.reports()[0].failing


Follow = Callable[..., Followed]


@pytest.fixture
def follow(tmp_path: Path, registry: Registry, discover: Discover) -> Follow:
    def start(api: KubernetesApi, source: str = "kubernetes:llm/app=vllm,tier in (gpu)") -> Followed:
        return Followed(source, kubeconfig(tmp_path / "config", api.url), registry, discover)

    return start


async def test_pods_come_when_they_have_an_address_drain_while_not_ready_and_go_when_deleted(
    api: KubernetesApi, follow: Follow
) -> None:
    await api.put("first", **pod("10.0.0.1"))
    followed = follow(api, "kubernetes:llm/app=vllm,tier!=cpu")
    await until(followed.has(p1=False))
    assert api.selectors == {"app=vllm,tier!=cpu"}
    kept = followed.registry.get("10.0.0.1:8000")
    await api.put("second", **pod(None, ready=False, phase="Pending"))
    await api.put("second", **pod("10.0.0.2", ready=False))
    await until(followed.has(p1=False, p2=True))
    await api.put("second", **pod("10.0.0.2"))
    await until(followed.has(p1=False, p2=False))
    await api.put("second", **pod("10.0.0.2", deletionTimestamp="2026-01-01T00:00:00Z"))
    await until(followed.has(p1=False, p2=True))
    await api.delete("second")
    await until(followed.has(p1=False))
    await api.put("third", **pod("10.0.0.3", phase="Failed"))
    await api.put("fourth", **pod("10.0.0.4"))
    await until(followed.has(p1=False, p4=False))
    assert followed.registry.get("10.0.0.1:8000") is kept
    assert api.lists == 1


async def test_ports_are_chosen_by_name_number_or_annotation(api: KubernetesApi, follow: Follow) -> None:
    ports = {"http": 8000, "api": 8001, "zmq": 5557}
    await api.put("first", **pod("10.0.0.1", ports=ports))
    annotations = {"kvcache/port": "http", "kvcache/scheme": "https", "kvcache/model": "m", "kvcache/replay": "5558"}
    await api.put("second", **pod("10.0.0.2", ports=ports, annotations=annotations))
    await api.put("third", **pod("10.0.0.3", ports={"other": 1, "another": 2}))
    followed = follow(api, "kubernetes:llm/app=vllm?port=api&events=zmq")
    await until(followed.has(p1=False, p2=False))
    assert sorted(str(one.entry) for one in followed.registry) == [
        "http://10.0.0.1:8001,name=10.0.0.1:8001,events=tcp://10.0.0.1:5557",
        "https://10.0.0.2:8000,name=10.0.0.2:8000,events=tcp://10.0.0.2:5557,replay=tcp://10.0.0.2:5558,model=m",
    ]
    await until(followed.says("the pod third is left out: no port api among its ports (other 1, another 2)"))
    assert not followed.is_failing


async def test_a_watch_continues_after_a_broken_connection_from_the_last_bookmark(
    api: KubernetesApi, follow: Follow
) -> None:
    await api.put("first", **pod("10.0.0.1"))
    followed = follow(api)
    await until(lambda: api.watches == 1)
    await api.bookmark()
    await api.put("second", **pod("10.0.0.2"))
    await api.bookmark()
    await until(followed.has(p1=False, p2=False))
    last = api.watched_from[0] + 3
    api.break_watches()
    await until(lambda: len(api.watched_from) == 2)
    assert api.watched_from[1] == last
    await api.delete("first")
    await until(followed.has(p2=False))
    assert api.lists == 1


@pytest.mark.parametrize("at_once", [True, False], ids=["as an event", "as an answer"])
async def test_all_is_listed_again_when_the_server_has_forgotten_the_version(
    api: KubernetesApi, follow: Follow, at_once: bool
) -> None:
    await api.put("first", **pod("10.0.0.1"))
    followed = follow(api)
    await until(lambda: api.watches == 1)
    if at_once:
        await api.error(410)
    else:
        await api.compact()
        api.break_watches()
    await until(lambda: api.lists == 2)
    await api.put("second", **pod("10.0.0.2"))
    await until(followed.has(p1=False, p2=False))
    assert not followed.is_failing


async def test_a_list_of_several_pages_is_read_to_its_end(api: KubernetesApi, follow: Follow) -> None:
    api.page = 2
    for number in range(1, 6):
        await api.put(f"pod-{number}", **pod(f"10.0.0.{number}"))
    followed = follow(api)
    await until(followed.has(p1=False, p2=False, p3=False, p4=False, p5=False))


async def test_a_server_that_starts_slowly_is_waited_for(api: KubernetesApi, follow: Follow) -> None:
    await api.put("first", **pod("10.0.0.1"))
    api.answers.clear()
    followed = follow(api)
    await until(lambda: bool(api.selectors))
    assert followed.has()()
    api.answers.set()
    await until(followed.has(p1=False))


async def test_a_server_that_refuses_changes_no_pod_and_its_reason_is_told(api: KubernetesApi, follow: Follow) -> None:
    await api.put("first", **pod("10.0.0.1"))
    followed = follow(api)
    await until(lambda: api.watches == 1)
    api.status = 403
    api.break_watches()
    await until(followed.says('Kubernetes answers 403: pods is forbidden: User "kvcache" cannot list resource "pods"'))
    assert followed.is_failing
    assert followed.has(p1=False)()
    api.status = None
    await api.delete("first")
    await until(followed.has())
    await until(lambda: not followed.is_failing)


async def test_a_kubeconfig_file_that_cannot_be_used_is_named_and_read_again(
    api: KubernetesApi, tmp_path: Path, registry: Registry, discover: Discover
) -> None:
    await api.put("first", **pod("10.0.0.1"))
    config = tmp_path / "config"
    followed = Followed("kubernetes:llm/app=vllm", config, registry, discover)
    await until(followed.says("No such file"))
    config.write_text("[]")
    await until(followed.says("is no kubeconfig file"))
    kubeconfig(config, api.url, "wrong")
    await until(followed.says("Kubernetes answers 401: Unauthorized"))
    kubeconfig(config, api.url)
    await until(followed.has(p1=False))


@pytest.mark.parametrize("inline", [True, False], ids=["as data", "as files"])
async def test_an_authority_and_a_client_certificate_are_taken_from_the_kubeconfig_file(
    tmp_path: Path, registry: Registry, discover: Discover, inline: bool
) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.pair.cert))
    tls.load_cert_chain(server.cert, server.key)
    tls.verify_mode = ssl.CERT_REQUIRED

    def named(field: str, file: Path) -> dict[str, str]:
        return {f"{field}-data": base64.b64encode(file.read_bytes()).decode()} if inline else {field: file.name}

    async with kubernetes_api(PODS, tls) as api:
        await api.put("first", **pod("10.0.0.1"))
        config = kubeconfig(tmp_path / "config", api.url)
        followed = Followed("kubernetes:llm/app=vllm", config, registry, discover)
        await until(followed.says("certificate verify failed"))
        kubeconfig(
            config,
            api.url,
            cluster=named("certificate-authority", authority.pair.cert),
            user={**named("client-certificate", client.cert), **named("client-key", client.key)},
        )
        await until(followed.has(p1=False))


async def test_without_an_account_the_reason_says_what_to_do(registry: Registry, discover: Discover) -> None:
    (entry,) = parse_discovery("kubernetes:llm/app=vllm")
    discovery: Discovery = discover(kubernetes_pods(entry))
    await until(lambda: "kubeconfig= names a file instead" in (discovery.reports()[0].problem or ""))


async def test_endpoints_of_slices_are_pods_each_once_and_drain_when_not_ready_or_terminating(follow: Follow) -> None:
    def endpoint(address: str, uid: str | None = None, **conditions: bool) -> dict[str, Any]:
        target = {"targetRef": {"kind": "Pod", "uid": uid}} if uid else {}
        return {"addresses": [address], "conditions": conditions, **target}

    async with kubernetes_api(SLICES) as api:
        await api.put("vllm-b", **endpoint_slice(endpoint("fd00::1", "u1", ready=True), kind="IPv6"))
        first = endpoint_slice(
            endpoint("10.0.0.1", "u1", ready=True),
            endpoint("10.0.0.2"),
            endpoint("10.0.0.3", ready=False),
            endpoint("10.0.0.4", ready=True, serving=True, terminating=True),
        )
        await api.put("vllm-a", **first)
        followed = follow(api, "kubernetes:llm/kubernetes.io/service-name=vllm")
        await until(followed.has(p1=False, p2=False, p3=True, p4=True))
        await api.put("vllm-c", **endpoint_slice(endpoint("10.0.0.5"), ports={"a": 1, "b": 2}))
        await until(followed.says("the slice vllm-c is left out: no port http"))
        await api.put("vllm-a", **endpoint_slice(endpoint("10.0.0.3", ready=True)))
        await until(lambda: {one.name for one in followed.registry} == {"10.0.0.3:8000", "[fd00::1]:8000"})
        assert followed.registry.get("10.0.0.3:8000") is not None


async def test_the_service_routes_to_engines_of_kubernetes_and_none_to_those_that_drain(
    api: KubernetesApi, serve: Serve, tmp_path: Path
) -> None:
    async with engine_starter() as start:
        engines = [await start(), await start()]
        numbers = [int(engine.pod.rpartition(":")[2]) for engine in engines]
        for number in numbers:
            await api.put(f"vllm-{number}", **pod("127.0.0.1", ports={"http": number}))
        discovery = parse_discovery(f"kubernetes:llm/app=vllm?kubeconfig={kubeconfig(tmp_path / 'config', api.url)}")
        service = Routed(await serve(discovery=discovery, zmq_endpoint=()), engines)
        await service.until_healthy(2)
        await api.put(f"vllm-{numbers[0]}", **pod("127.0.0.1", ports={"http": numbers[0]}, ready=False))
        await service.until_pods(lambda pods: bool(pods[engines[0].pod]["draining"]))
        for text in ("Hello", "Good day", "Greetings"):
            async with service.client.post(CHAT, json=chat(text)) as answer:
                assert (answer.status, answer.headers["X-Kvcache-Pod"]) == (200, engines[1].pod)
        await api.delete(f"vllm-{numbers[0]}")
        await service.until_pods(lambda pods: set(pods) == {engines[1].pod})
