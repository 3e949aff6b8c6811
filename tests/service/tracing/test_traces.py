"""OTEL_EXPORTER_OTLP_ENDPOINT: traces of routed requests, at a collector that decodes what arrives."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from service.contract.settings import Settings, SettingsError
from service.server import ListenError, listening
from service.simulation.faults import Fault
from tests.conftest import ROOT
from tests.service.engines import MODEL, chat
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.service.tracing.collector import Collector
from tests.waiting import until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
SERVER, CLIENT = 2, 3
ROUTE = f"POST {CHAT}"


def context_of(received: Any) -> dict[str, str]:
    names = ("traceparent", "tracestate", "baggage")
    return {name.decode().lower(): value.decode() for name, value in received.headers if name.decode().lower() in names}


async def ask(routed: Routed, headers: dict[str, str] | None = None, **fields: Any) -> int:
    async with routed.client.post(CHAT, json=chat("Hi", max_tokens=3, **fields), headers=headers) as response:
        await response.read()
        return response.status


def at(collector: Collector) -> dict[str, object]:
    return {"otel_exporter_otlp_endpoint": collector.url}


async def test_client_gateway_and_engine_are_in_one_trace(route: Route, collector: Collector) -> None:
    routed = await route(1, settings=at(collector))
    sent = {"traceparent": SAMPLED, "tracestate": "vendor=1,other=2", "baggage": "user=7"}
    assert await ask(routed, sent, stream=True) == 200
    (server,) = [span for span in await collector.wait_for(ROUTE, 2) if span.kind == SERVER]
    assert (server.trace, server.parent) == (TRACE, SPAN)
    (client,) = [span for span in collector.children(server) if span.kind == CLIENT]
    received = context_of(routed.engines[0].requests[-1])
    assert received == {
        "traceparent": f"00-{TRACE}-{client.id}-01",
        "tracestate": "vendor=1,other=2",
        "baggage": "user=7",
    }


async def test_the_steps_of_a_request_are_spans_in_their_order(route: Route, collector: Collector) -> None:
    routed = await route(1, settings=at(collector))
    assert await ask(routed, stream=True, stream_options={"include_usage": True}) == 200
    spans = await collector.wait_for(ROUTE, 2)
    (server,) = [span for span in spans if span.kind == SERVER]
    (client,) = [span for span in spans if span.kind == CLIENT]
    assert server.parent == ""
    children = collector.children(server)
    assert [span.name for span in children] == ["receive", "render", "tokenize", "match", "choose", ROUTE]
    assert all(server.began <= span.began <= span.ended <= server.ended for span in children)
    assert client.events == ["first byte"]
    engine = routed.engines[0]
    assert (
        server.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": CHAT,
            "http.response.status_code": 200,
            "url.path": CHAT,
            "client.address": "127.0.0.1",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": MODEL,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 0,
            "kvcache.pod": engine.pod,
            "kvcache.predicted_tokens": 0,
        }.items()
    )
    assert (
        client.attributes.items()
        >= {
            "server.address": "127.0.0.1",
            "server.port": int(engine.pod.rpartition(":")[2]),
            "http.response.status_code": 200,
            "kvcache.rank": 0,
        }.items()
    )
    assert server.resource["service.name"] == "kvcache"
    assert not server.is_error
    assert "Hi" not in json.dumps([span.attributes for span in collector.spans])


async def test_each_attempt_is_a_span_of_its_own(route: Route, collector: Collector) -> None:
    routed = await route(2, settings=at(collector))
    for engine in routed.engines:
        engine.faults.add(Fault("reset"))
    assert await ask(routed) == 502
    spans = await collector.wait_for(ROUTE, 3)
    (server,) = [span for span in spans if span.kind == SERVER]
    attempts = collector.children(server)
    clients = [span for span in attempts if span.kind == CLIENT]
    assert [span.attributes.get("http.request.resend_count") for span in clients] == [None, 1]
    assert {span.attributes["error.type"] for span in clients} == {"ConnectionBroken"}
    assert {span.attributes["kvcache.pod"] for span in clients} == {engine.pod for engine in routed.engines}
    assert all(span.is_error for span in (server, *clients))
    assert server.attributes["error.type"] == "502"


async def test_a_trace_that_the_client_does_not_sample_reaches_the_engine_unsampled(
    route: Route, collector: Collector
) -> None:
    routed = await route(1, settings=at(collector))
    assert await ask(routed, {"traceparent": UNSAMPLED}) == 200
    received = context_of(routed.engines[0].requests[-1])["traceparent"]
    assert received.startswith(f"00-{TRACE}-")
    assert received.endswith("-00")
    assert await ask(routed, {"traceparent": SAMPLED}) == 200
    spans = await collector.wait_for(ROUTE, 2)
    assert len(spans) == 2, "only those of the second request"


async def test_the_standard_variables_choose_what_is_sampled_and_name_the_service(
    route: Route, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "router-of-llm")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    routed = await route(1, settings=at(collector))
    assert await ask(routed) == 200
    assert await ask(routed, {"traceparent": SAMPLED}) == 200
    spans = await collector.wait_for(ROUTE, 2)
    assert {span.trace for span in collector.spans} == {TRACE}
    assert (
        spans[0].resource.items()
        >= {
            "service.name": "router-of-llm",
            "deployment.environment.name": "test",
        }.items()
    )


async def test_the_latency_in_metrics_names_a_trace(route: Route, collector: Collector) -> None:
    routed = await route(1, settings=at(collector))
    assert await ask(routed, {"traceparent": SAMPLED}) == 200
    accepted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with routed.client.get("/metrics", headers=accepted) as response:
        lines = (await response.text()).splitlines()
    buckets = [line for line in lines if line.startswith("kvcache_http_request_seconds_bucket") and CHAT in line]
    (named,) = [line for line in buckets if " # " in line]
    assert f' # {{trace_id="{TRACE}"}} 0.' in named
    async with routed.client.get("/metrics") as response:
        assert TRACE not in await response.text(), "the plain form has no exemplars"


@pytest.mark.parametrize("given", ["00-1", SAMPLED, None])
async def test_without_a_collector_the_clients_context_passes_as_it_is(route: Route, given: str | None) -> None:
    routed = await route(1)
    sent = {} if given is None else {"traceparent": given, "tracestate": "a=1"}
    assert await ask(routed, sent) == 200
    assert context_of(routed.engines[0].requests[-1]) == sent


async def test_a_disabled_sdk_leaves_the_clients_context_as_it_is(
    route: Route, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    routed = await route(1, settings=at(collector))
    sent = {"traceparent": SAMPLED, "tracestate": "a=1"}
    assert await ask(routed, sent) == 200
    assert await ask(routed) == 200
    requests = routed.engines[0].requests
    assert (context_of(requests[-2]), context_of(requests[-1])) == (sent, {})


def test_without_a_collector_the_sdk_is_not_loaded() -> None:
    script = "import sys, service.serving; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


async def test_a_collector_that_is_down_is_said_once_and_when_it_is_back(
    route: Route, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 403  # not tried again
    routed = await route(1, settings=at(collector))
    with caplog.at_level(logging.INFO):
        for count in range(1, 4):
            assert await ask(routed) == 200
            await until(lambda count=count: collector.batches >= count)  # type: ignore[misc]
        collector.status = 200
        assert await ask(routed) == 200
        await collector.wait_for(ROUTE, 2)
        await until(lambda: any("takes spans again" in record.message for record in caplog.records))
    said = [record.message for record in caplog.records if "collector" in record.message]
    assert len(said) == 2
    assert said[0].startswith(f"the collector of traces at {collector.url} takes no spans")
    assert "403" in said[0]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_collector_that_does_not_answer_delays_neither_requests_nor_the_end(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    held = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    routed = await route(1, settings={"otel_exporter_otlp_endpoint": f"http://127.0.0.1:{port}"})
    for _ in range(50):  # many more spans than the queue holds, while the first batch waits for its answer
        assert await ask(routed) == 200
    held.set()
    server.close()


async def test_a_protocol_that_is_not_supported_is_refused_at_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ListenError, match="must be http/protobuf"):
        async with listening(replace(settings, otel_exporter_otlp_endpoint="http://127.0.0.1:4317")):
            pass


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(SettingsError, match="must be a URL"):
        Settings.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})
