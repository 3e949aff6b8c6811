from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import dns.rcode
import pytest

from service.contract.discovery import parse_discovery
from service.fleet.discovery.discovery import Discovery
from service.fleet.discovery.dns import DnsPods
from service.fleet.registry import Registry
from tests.service.conftest import Serve
from tests.service.engines import chat, engine_starter
from tests.service.fleet.discovery.conftest import Discover
from tests.service.fleet.discovery.name_server import NameServer, name_server
from tests.service.gateway.routed import CHAT, Routed
from tests.waiting import until

NAME = "vllm.llm.example."
SERVICE = "_http._tcp.vllm.llm.example."


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as started:
        yield started


class Followed:
    """The registry that follows one DNS source."""

    def __init__(self, source: str, server: NameServer, registry: Registry, discover: Discover) -> None:
        (entry,) = parse_discovery(f"{source}{'&' if '?' in source else '?'}server={server.address}")
        self._registry = registry
        self._discovery: Discovery = discover(DnsPods(entry, interval=0.01))

    def has(self, *names: str) -> Callable[[], bool]:
        return lambda: sorted(pod.name for pod in self._registry) == sorted(names)

    def says(self, problem: str) -> Callable[[], bool]:
        return lambda: problem in (self._discovery.reports()[0].problem or "")

    @property
    def is_failing(self) -> bool:
        return self._discovery.reports()[0].failing

    @property
    def is_well(self) -> bool:
        (report,) = self._discovery.reports()
        return report.answered and report.problem is None


@pytest.fixture
def follow(server: NameServer, registry: Registry, discover: Discover) -> Callable[[str], Followed]:
    return lambda source: Followed(source, server, registry, discover)


Follow = Callable[[str], Followed]


async def test_the_addresses_of_a_name_are_pods_and_are_followed_whatever_their_ttl(
    server: NameServer, registry: Registry, follow: Follow
) -> None:
    server.records = {(NAME, "A"): ["10.0.0.7"], (NAME, "AAAA"): ["fd00::7"]}
    followed = follow("dns:vllm.llm.example:8000?scheme=https&model=m&events=5557&replay=5558")
    await until(followed.has("10.0.0.7:8000", "[fd00::7]:8000"))
    kept = registry.get("[fd00::7]:8000")
    assert kept is not None
    assert str(kept.entry) == (
        "https://[fd00::7]:8000,name=[fd00::7]:8000,events=tcp://[fd00::7]:5557,replay=tcp://[fd00::7]:5558,model=m"
    )
    server.records = {(NAME, "A"): ["10.0.0.8", "10.0.0.9"], (NAME, "AAAA"): ["fd00::7"]}
    await until(followed.has("10.0.0.8:8000", "10.0.0.9:8000", "[fd00::7]:8000"))
    assert registry.get("[fd00::7]:8000") is kept


async def test_a_name_without_addresses_and_one_that_does_not_exist_have_no_pods(
    server: NameServer, follow: Follow
) -> None:
    server.records = {(NAME, "A"): ["10.0.0.7"]}
    followed = follow("dns:vllm.llm.example:8000")
    await until(followed.has("10.0.0.7:8000"))
    server.records = {(NAME, "TXT"): ["other"]}
    await until(followed.has())
    assert followed.is_well
    server.records = {(NAME, "A"): ["10.0.0.7"]}
    await until(followed.has("10.0.0.7:8000"))
    server.records = {}
    await until(followed.says("vllm.llm.example does not exist"))
    assert followed.has()()


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_a_server_that_fails_changes_no_pod(server: NameServer, follow: Follow, rcode: dns.rcode.Rcode) -> None:
    server.records = {(NAME, "A"): ["10.0.0.7"]}
    followed = follow("dns:vllm.llm.example:8000")
    await until(followed.has("10.0.0.7:8000"))
    server.records, server.rcode = {(NAME, "A"): ["10.0.0.8"]}, rcode
    await until(followed.says(f"A of vllm.llm.example: no server answers it ({rcode.name})"))
    assert followed.is_failing
    assert followed.has("10.0.0.7:8000")()
    server.rcode = dns.rcode.NOERROR
    await until(followed.has("10.0.0.8:8000"))
    await until(lambda: followed.is_well)


async def test_a_silent_server_changes_no_pod(server: NameServer, follow: Follow) -> None:
    server.records = {(NAME, "A"): ["10.0.0.7"]}
    followed = follow("dns:vllm.llm.example:8000")
    await until(followed.has("10.0.0.7:8000"))
    server.is_silent = True
    await until(followed.says("A of vllm.llm.example: no answer within 2 s"))
    assert followed.has("10.0.0.7:8000")()
    server.is_silent = False
    await until(lambda: followed.is_well)


async def test_a_server_that_answers_for_ipv4_alone_is_used_and_keeps_what_it_answered_once(
    server: NameServer, follow: Follow
) -> None:
    server.records = {(NAME, "A"): ["10.0.0.7"], (NAME, "AAAA"): ["fd00::7"]}
    server.silent_about = {"AAAA"}
    followed = follow("dns:vllm.llm.example:8000")
    await until(followed.has("10.0.0.7:8000"))
    assert followed.says("AAAA of vllm.llm.example: no answer within 2 s")()
    assert not followed.is_failing
    server.silent_about = set()
    await until(followed.has("10.0.0.7:8000", "[fd00::7]:8000"))
    server.silent_about = {"A"}
    await until(lambda: followed.is_failing)
    assert followed.has("10.0.0.7:8000", "[fd00::7]:8000")()


async def test_an_answer_that_is_too_long_for_a_datagram_is_read_over_tcp(server: NameServer, follow: Follow) -> None:
    addresses = [f"10.0.{number}.7" for number in range(200)]
    server.records = {(NAME, "A"): addresses}
    followed = follow("dns:vllm.llm.example:8000")
    await until(followed.has(*(f"{address}:8000" for address in addresses)))
    assert server.over_tcp


async def test_srv_records_give_each_pod_its_port_and_bring_addresses_along(server: NameServer, follow: Follow) -> None:
    first, second = "vllm-0.vllm.llm.example.", "vllm-1.vllm.llm.example."
    server.records = {(SERVICE, "SRV"): [f"0 50 8000 {first}", f"0 50 8001 {second}", "0 0 0 ."]}
    server.additional = {(first, "A"): ["10.0.0.7"], (second, "A"): ["10.0.0.8"], (second, "AAAA"): ["fd00::8"]}
    followed = follow("dns:_http._tcp.vllm.llm.example")
    await until(followed.has("10.0.0.7:8000", "10.0.0.8:8001", "[fd00::8]:8001"))
    server.additional = {(first, "A"): ["10.0.0.9"], (second, "A"): ["10.0.0.8"]}  # the first was started again
    await until(followed.has("10.0.0.9:8000", "10.0.0.8:8001"))
    assert not server.asked[first, "A"]


async def test_targets_whose_address_an_srv_answer_lacks_are_asked_once_in_their_ttl(
    server: NameServer, follow: Follow
) -> None:
    target = "vllm-0.vllm.llm.example."
    server.records = {(SERVICE, "SRV"): [f"0 0 8000 {target}"], (target, "A"): ["10.0.0.7"]}
    followed = follow("dns:_http._tcp.vllm.llm.example")
    await until(followed.has("10.0.0.7:8000"))
    again = server.asked[SERVICE, "SRV"] + 3
    await until(lambda: server.asked[SERVICE, "SRV"] >= again)
    assert server.asked[target, "A"] == 1
    server.rcode = dns.rcode.SERVFAIL
    await until(followed.says("SRV of _http._tcp.vllm.llm.example"))
    assert followed.is_failing
    assert followed.has("10.0.0.7:8000")()


async def test_the_service_routes_to_engines_that_dns_names(server: NameServer, serve: Serve) -> None:
    async with engine_starter() as start:
        engines = [await start(), await start()]
        target = "engines.llm.example."
        server.records = {
            (target, "A"): ["127.0.0.1"],
            (SERVICE, "SRV"): [f"0 0 {engine.pod.rpartition(':')[2]} {target}" for engine in engines],
        }
        discovery = parse_discovery(f"dns:_http._tcp.vllm.llm.example?server={server.address}")
        service = Routed(await serve(discovery=discovery, zmq_endpoint=()), engines)
        await service.until_healthy(2)
        async with service.client.post(CHAT, json=chat("Hello")) as answer:
            assert answer.status == 200
            assert answer.headers["X-Kvcache-Pod"] in {engine.pod for engine in engines}
        del server.records[SERVICE, "SRV"][0]
        await service.until_pods(lambda pods: set(pods) == {engines[1].pod})
