from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import msgspec
from aiohttp import ClientSession

from service.api.responses import PodList
from service.app import create_app
from service.contract.endpoints import Endpoint
from service.contract.settings import Settings
from tests.service.api.conftest import CHAT, Join, post
from tests.service.conftest import Play, Serve
from tests.waiting import PATIENCE


async def fetch(client: ClientSession, path: str) -> Any:
    async with client.get(path) as answer:
        assert answer.status == 200
        return await answer.json()


async def until_ready(client: ClientSession) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.get("/ready") as answer:
                if answer.status == 200:
                    return await answer.json()


async def samples(client: ClientSession) -> dict[str, float]:
    """Every series of /metrics with its value."""
    async with client.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_health_answers_ok(serve: Serve) -> None:
    client = await serve()
    async with client.get("/health") as answer:
        assert (answer.status, await answer.text()) == (200, "OK")


async def test_the_service_is_ready_when_the_default_model_is_loaded(serve: Serve) -> None:
    assert await until_ready(await serve()) == {"ready": True, "reasons": []}


async def test_ready_gives_503_and_the_reason_while_the_default_model_is_missing(serve: Serve) -> None:
    client = await serve(model_name="no such: model", hub_retry_after=0.05)
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.get("/ready") as answer:
                assert answer.status == 503
                body = await answer.json()
                if "not found" in body["error"]["message"]:
                    break
    assert body["ready"] is False
    assert body["reasons"] == [body["error"]["message"]]
    assert body["error"]["code"] == "not_ready"
    async with client.get("/health") as answer:
        assert answer.status == 200


async def test_ready_gives_503_and_the_reason_while_a_socket_cannot_be_opened(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://*:{taken.getsockname()[1]}"
        client = await serve(zmq_endpoint=(Endpoint(address),))
        async with asyncio.timeout(PATIENCE):
            while True:
                async with client.get("/ready") as answer:
                    assert answer.status == 503
                    reasons = (await answer.json())["reasons"]
                    if len(reasons) == 1 and "loaded" not in reasons[0]:
                        break
    assert address in reasons[0]


async def test_pods_lists_the_blocks_of_every_rank_and_whether_it_is_exact(play: Play) -> None:
    recorded = await play("g_dp")
    body = await fetch(recorded.client, "/pods")
    pods = msgspec.convert(body, PodList).pods
    assert [(pod.pod, pod.rank, pod.last_sequence) for pod in pods] == [
        ("10.0.0.1:8000", 0, 5),
        ("10.0.0.1:8000", 1, 3),
    ]
    for pod in pods:
        assert pod.model == recorded.truth.model
        assert pod.block_sizes == [16]
        assert pod.blocks.gpu > 0
        assert (pod.exact, pod.inexact_reason, pod.connected) == (True, None, True)
        assert pod.unsupported_groups == pod.not_understood == []
        assert pod.last_event_age_seconds is not None and 0 <= pod.last_event_age_seconds < 60
        assert pod.endpoint is not None and pod.endpoint.startswith("tcp://127.0.0.1:")


async def test_a_deleted_pod_is_gone_from_scores_pods_and_metrics(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    kept, gone = await join(client, "kept:1"), await join(client, "gone/é%:2")
    await kept.stores([1, 2, 3, 4])
    await gone.stores([1, 2, 3, 4])
    assert await post(client, "/score", {"prompt": [1, 2, 3, 4]}) == {"gone/é%:2": 1, "kept:1": 1}
    assert 'kvcache_pod_blocks{model="builtin/demo",pod="gone/é%:2",rank="0",tier="gpu"}' in await samples(client)
    async with client.delete("/pods/gone%2F%C3%A9%25:2") as answer:
        assert (answer.status, await answer.json()) == (200, {"pod": "gone/é%:2", "forgotten": True})
    async with client.delete("/pods/gone%2F%C3%A9%25:2") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "pod_not_found"
    assert await post(client, "/score", {"prompt": [1, 2, 3, 4]}) == {"kept:1": 1}
    assert [pod["pod"] for pod in (await fetch(client, "/pods"))["pods"]] == ["kept:1"]
    series = await samples(client)
    assert not [name for name in series if "gone" in name]
    assert [name for name in series if "kept:1" in name]


async def test_metrics_count_events_lookups_and_requests(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    engine = await join(client, "a:1")
    await engine.stores([1, 2, 3, 4, 5, 6, 7, 8])
    await engine.says([{"type": "BlockRemoved", "block_hashes": [hash(("a:1", 0, 1, *range(1, 9))) % 2**64]}])
    await engine.says([{"type": "Unheard"}])
    await post(client, "/score", {"prompt": [1, 2, 3, 4]})
    await post(client, "/score", {"prompt": [9, 9, 9, 9]})
    async with client.post("/score", json={}) as answer:
        assert answer.status == 400
    async with client.post("/made/up") as answer:
        assert answer.status == 404
    counted = await samples(client)
    rank = 'model="builtin/demo",pod="a:1",rank="0"'
    expected = {
        "kvcache_index_admissions_total": 2,
        "kvcache_index_evictions_total": 1,
        "kvcache_index_capacity_evictions_total": 0,
        "kvcache_index_displaced_total": 0,
        "kvcache_index_blocks": 1,
        "kvcache_index_lookup_requests_total": 2,
        "kvcache_index_lookup_hits_total": 1,
        "kvcache_index_lookup_latency_seconds_count": 2,
        'kvcache_index_lookup_latency_seconds_bucket{le="+Inf"}': 2,
        "kvcache_events_messages_received_total": 3,
        "kvcache_events_applied_total": 2,
        "kvcache_events_gaps_total": 0,
        "kvcache_events_queue_depth": 0,
        "kvcache_events_lag_seconds_count": 3,
        f'kvcache_pod_blocks{{{rank},tier="gpu"}}': 1,
        f'kvcache_pod_blocks{{{rank},tier="cpu"}}': 0,
        f"kvcache_pod_exact{{{rank}}}": 0,
        f"kvcache_pod_connected{{{rank}}}": 1,
        f"kvcache_pod_last_sequence{{{rank}}}": 2,
        'kvcache_http_requests_total{method="POST",route="/score",status="200"}': 2,
        'kvcache_http_requests_total{method="POST",route="/score",status="400"}': 1,
        'kvcache_http_requests_total{method="other",route="other",status="404"}': 1,
        'kvcache_http_request_seconds_count{route="/score"}': 3,
        "kvcache_http_requests_in_flight": 0,
    }
    assert {name: counted.get(name) for name in expected} == expected
    assert sum(value for name, value in counted.items() if name.startswith("kvcache_events_skipped_total")) == 1
    assert counted["process_resident_memory_bytes"] > 0


async def test_metrics_have_openmetrics_form_when_the_scraper_accepts_it(serve: Serve) -> None:
    client = await serve()
    async with client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await answer.text()).endswith("# EOF\n")


async def test_models_lists_the_default_model_the_models_of_pods_and_loras_with_their_base(
    serve: Serve, join: Join
) -> None:
    client = await serve()
    await (await join(client, "a:1", model="org/other")).stores([1, 2, 3, 4], lora_name="sql")
    found = await fetch(client, "/v1/models")
    assert found["object"] == "list"
    assert [(card["id"], card["parent"]) for card in found["data"]] == [
        ("builtin/demo", None),
        ("org/other", None),
        ("sql", "org/other"),
    ]


async def test_the_openapi_document_lists_exactly_the_routes_besides_the_page(serve: Serve) -> None:
    document = await fetch(await serve(), "/openapi.json")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routed = {
        (route.method, route.resource.canonical)
        for route in create_app(Settings()).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert described == routed - {("GET", "/"), ("GET", "/ui"), ("GET", "/ui/{file}")}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"].endswith(".")
            assert [parameter["name"] for parameter in operation.get("parameters", [])] == re.findall(r"{(\w+)}", path)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == set(document["components"]["schemas"])


async def test_the_openapi_document_describes_the_fields_of_bodies(serve: Serve) -> None:
    document = await fetch(await serve(), "/openapi.json")
    schemas = document["components"]["schemas"]
    assert schemas["ScoreRequest"]["required"] == ["prompt"]
    assert {"model", "lora_name", "cache_salt", "pods"} <= set(schemas["ScoreRequest"]["properties"])
    assert {"messages", "tools", "stream", "truncate_prompt_tokens"} <= set(schemas["CompletionRequest"]["properties"])
    assert set(schemas["ErrorDetail"]["properties"]) == {"message", "type", "param", "code"}


async def test_responses_have_the_fields_of_the_openapi_document(serve: Serve) -> None:
    client = await serve()
    document = await fetch(client, "/openapi.json")
    for path in ("/score_completions", "/v1/chat/completions", "/v1/chat/completions/render", "/explain", "/tokenize"):
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        described = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert set(await post(client, path, CHAT)) == set(described["properties"])


async def test_endpoints_say_why_nothing_arrives_and_what_to_do(serve: Serve) -> None:
    client = await serve(zmq_endpoint=(Endpoint("tcp://127.0.0.1:1", pod="a", model="m"),))
    async with asyncio.timeout(PATIENCE):
        while True:
            (endpoint,) = (await fetch(client, "/endpoints"))["endpoints"]
            if endpoint["state"] == "refused":
                break
            await asyncio.sleep(0.01)
    assert endpoint["problem"].startswith("tcp://127.0.0.1:1: nobody accepts connections there; start the engine")
    assert (endpoint["connections"], endpoint["messages"], endpoint["last_message_age_seconds"]) == (0, 0, None)
    (pod,) = (await fetch(client, "/pods"))["pods"]
    assert (pod["pod"], pod["exact"], pod["inexact_reason"]) == ("a", False, "not heard yet")
    assert (await samples(client))['kvcache_endpoint_state{endpoint="tcp://127.0.0.1:1",state="refused"}'] == 1


async def test_a_silent_endpoint_is_a_reason_not_to_be_ready_if_asked_for(serve: Serve) -> None:
    client = await serve(ready_needs_events=True, zmq_endpoint=(Endpoint("tcp://127.0.0.1:1"),))
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.get("/ready") as answer:
                reasons = (await answer.json())["reasons"]
            if len(reasons) == 1 and "nobody accepts connections there" in reasons[0]:
                return
            await asyncio.sleep(0.01)
