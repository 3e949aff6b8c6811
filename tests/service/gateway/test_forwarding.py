"""Requests through the gateway to simulated engines, over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from typing import Any

import aiohttp
import pytest
from yarl import URL

from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from service.simulation.server import EngineServer
from tests.command import free_port
from tests.service.conftest import Serve, port_of, url_of
from tests.service.engines import MODEL, chat
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.waiting import PATIENCE, until

LONG = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 20


async def ask(routed: Routed, body: dict[str, Any], **headers: str) -> tuple[aiohttp.ClientResponse, Any]:
    async with routed.client.post(CHAT, json=body, headers=headers) as response:
        return response, await response.json()


def generated(engine: EngineServer) -> int:
    return sum(received.path.startswith(CHAT) for received in engine.requests)


async def test_the_bytes_of_a_request_reach_the_engine_unchanged(route: Route) -> None:
    routed = await route(1)
    body = (
        b'{ "messages":[{"role":"user","content":"Hi","x_msg":null}],\n "top_p":1, "priority":3,"unknown":{"a":[1.0]} }'
    )
    headers = {
        "X-Custom": "a  b",
        "traceparent": "00-1",
        "Authorization": "Bearer client",
        "Content-Type": "application/json",
    }
    url = URL(f"{url_of(routed.client)}{CHAT}?x=1&y=%20%2F", encoded=True)
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        assert response.status == 200
    received = routed.engines[0].requests[-1]
    assert received.body == body
    assert received.path == f"{CHAT}?x=1&y=%20%2F"
    assert {(name.lower().encode(), value.encode()) for name, value in headers.items()} <= {
        (name.lower(), value) for name, value in received.headers
    }
    assert (b"Host", routed.engines[0].pod.encode()) in received.headers


async def test_the_answer_of_the_engine_is_returned_unchanged(route: Route) -> None:
    routed = await route(1)
    body = chat("Hello", stream=True, stream_options={"include_usage": True}, max_tokens=9)
    headers = {"X-Request-Id": "same"}
    async with routed.client.post(CHAT, json=body, headers=headers) as response:
        through, via = await response.read(), response
    async with (
        aiohttp.ClientSession() as session,
        session.post(routed.engines[0].url + CHAT, json=body, headers=headers) as direct,
    ):
        expected = await direct.read()
    created = f'"created":{json.loads(through.split(b"data: ")[1])["created"]}'.encode()
    assert [line.split(b'"created"')[0] for line in through.splitlines()] == [
        line.split(b'"created"')[0] for line in expected.splitlines()
    ]
    assert created in through
    added = {
        "X-Kvcache-Pod",
        "X-Kvcache-Predicted-Tokens",
        "X-Kvcache-Predicted-From",
        "X-Kvcache-Renderer",
        "X-Kvcache-Parity",
    }
    assert set(via.headers) - set(direct.headers) == added
    assert {name: via.headers[name] for name in direct.headers if name != "Date"} == {
        name: direct.headers[name] for name in direct.headers if name != "Date"
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"model', 400), (b"{}", 400), (b'{"messages": [], "model": "builtin/demo", "n": "x"}', 400)],
)
async def test_the_engine_itself_refuses_wrong_requests(route: Route, body: bytes, status: int) -> None:
    routed = await route(1)
    async with routed.client.post(CHAT, data=body) as response:
        through = response.status, await response.read()
    async with aiohttp.ClientSession() as session, session.post(routed.engines[0].url + CHAT, data=body) as direct:
        assert through == (direct.status, await direct.read())
    assert through[0] == status or through[0] == 200


async def test_a_model_that_no_pod_serves_is_404(route: Route) -> None:
    routed = await route(2)
    response, body = await ask(routed, {"model": "other", "messages": []})
    assert response.status == 404
    assert body["error"]["code"] == "model_not_found"
    assert not any(map(generated, routed.engines))


async def test_every_turn_of_a_chat_goes_where_its_past_is_cached_and_the_prediction_is_true(route: Route) -> None:
    routed = await route(3)
    messages = chat(LONG)["messages"]
    pods = []
    for _ in range(4):
        response, answer = await ask(routed, {"model": MODEL, "messages": messages})
        pods.append(response.headers["X-Kvcache-Pod"])
        predicted = int(response.headers["X-Kvcache-Predicted-Tokens"])
        assert predicted == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        messages = [*messages, answer["choices"][0]["message"], {"role": "user", "content": "And then?"}]
        await routed.until_applied(next(engine for engine in routed.engines if engine.pod == pods[0]))
    assert len(set(pods)) == 1
    assert predicted > 300


async def test_the_rank_with_the_best_match_gets_the_request(route: Route) -> None:
    routed = await route(1, ranks=3)
    async with aiohttp.ClientSession() as session:
        await session.post(routed.engines[0].url + CHAT, json=chat(LONG), headers={"X-data-parallel-rank": "2"})
    await routed.until_applied(routed.engines[0])
    response, answer = await ask(routed, chat(LONG))
    assert response.headers["X-Kvcache-Rank"] == "2"
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == int(response.headers["X-Kvcache-Predicted-Tokens"]) > 0


async def test_completions_take_text_and_token_ids(route: Route) -> None:
    routed = await route(1)
    for prompt in ("Hello there", [5, 6, 7]):
        async with routed.client.post("/v1/completions", json={"model": MODEL, "prompt": prompt}) as response:
            assert response.status == 200
            assert (await response.json())["object"] == "text_completion"


async def test_other_paths_of_v1_are_forwarded_with_their_method(route: Route) -> None:
    routed = await route(1)
    async with routed.client.delete("/v1/responses/r1") as response:
        assert (response.status, response.headers["X-Kvcache-Pod"]) == (404, routed.engines[0].pod)


async def test_without_pods_the_echo_says_that_it_is_one(serve: Serve) -> None:
    client = await serve()
    async with client.post(CHAT, json=chat("Hello")) as response:
        assert response.headers["X-Kvcache-Echo"] == "true"
        assert "Response based on template" in (await response.json())["choices"][0]["message"]["content"]
    async with client.get("/v1/responses/r1") as response:
        assert response.status == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_request_at_the_engine(route: Route, stream: bool) -> None:
    routed = await route(1, speed=Speed(decode_seconds=60))
    task = asyncio.create_task(ask(routed, chat("Hello", stream=stream)))
    await until(lambda: routed.engines[0].in_flight == 1)
    task.cancel()
    await until(lambda: routed.engines[0].in_flight == 0)
    assert routed.engines[0].aborted == 1
    assert (await routed.pods())[routed.engines[0].pod]["in_flight"] == 0


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_of_one_pod_is_not_seen_by_the_client(route: Route, status: int) -> None:
    routed = await route(4)
    for engine in routed.engines[:2]:
        engine.faults.add(Fault("status", status=status, times=100))
    answers = await asyncio.gather(*(ask(routed, chat(f"Hello {number}")) for number in range(12)))
    assert [response.status for response, _ in answers] == [200] * 12


async def test_the_last_refusal_is_passed_on_with_its_retry_after(route: Route) -> None:
    routed = await route(3)
    for engine in routed.engines:
        engine.faults.add(Fault("status", status=429, retry_after=7))
    for stream in (False, True):
        for engine in routed.engines:
            engine.faults.clear()
            engine.faults.add(Fault("status", status=429, retry_after=7, times=9))
        response, body = await ask(routed, chat("Hello", stream=stream))
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert response.content_type == "application/json"
        assert body["error"]["message"] == "simulated fault"
    assert [generated(engine) for engine in routed.engines] == [2, 2, 2]
    metrics = await (await routed.client.get("/metrics")).text()
    assert "kvcache_gateway_retries_total 4.0" in metrics
    for engine in routed.engines:
        assert f'kvcache_gateway_refusals_total{{pod="{engine.pod}",status="429"}} 2.0' in metrics
        assert f'kvcache_pod_available{{pod="{engine.pod}"}} 1.0' in metrics


@pytest.mark.parametrize("status", [400, 500])
async def test_other_errors_of_the_engine_are_passed_on_after_one_attempt(route: Route, status: int) -> None:
    routed = await route(3)
    for engine in routed.engines:
        engine.faults.add(Fault("status", status=status))
    response, body = await ask(routed, chat("Hello"))
    assert (response.status, body["error"]["code"]) == (status, status)
    assert sum(map(generated, routed.engines)) == 1


async def test_a_reset_before_the_answer_is_tried_elsewhere(route: Route) -> None:
    routed = await route(4)
    routed.engines[0].faults.add(Fault("reset", times=100))
    answers = await asyncio.gather(*(ask(routed, chat(f"Hello {number}")) for number in range(12)))
    assert [response.status for response, _ in answers] == [200] * 12


async def test_an_engine_that_refuses_connections_costs_no_request(route: Route) -> None:
    routed = await route(2, settings={"health_interval": 60.0})
    gone = routed.engines[0]
    await gone.stop()
    answers = [await ask(routed, chat(f"Hello {number}")) for number in range(8)]
    assert [response.status for response, _ in answers] == [200] * 8
    assert (await routed.pods())[gone.pod]["breaker"] in {"open", "half_open"}


async def test_without_a_pod_that_works_the_answer_is_503_at_once(route: Route) -> None:
    routed = await route(2)
    for engine in routed.engines:
        await engine.stop()
    async with asyncio.timeout(PATIENCE):
        while True:
            response, body = await ask(routed, chat("Hello", stream=True))
            if response.status == 503:
                break
            assert response.status == 502
    assert int(response.headers["Retry-After"]) >= 1
    assert body["error"]["code"] == "no_pod_available"
    assert (await routed.client.get("/health")).status == 200
    ready = await routed.client.get("/ready")
    assert ready.status == 503
    assert "no pod can take requests" in (await ready.json())["reasons"]


async def lines_of(response: aiohttp.ClientResponse) -> list[str]:
    """The events that arrived, also of an answer that broke off."""
    received = b""
    try:
        async for piece in response.content.iter_any():
            received += piece
    except aiohttp.ClientPayloadError:
        return [*received.decode().split("\n\n"), "BROKEN"]
    return received.decode().split("\n\n")


@pytest.mark.parametrize("kind", ["die", "abort"])
async def test_an_engine_that_dies_in_mid_stream_ends_in_an_error_and_a_broken_connection(
    route: Route, kind: Any
) -> None:
    routed = await route(2)
    for engine in routed.engines:
        engine.faults.add(Fault(kind))
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        *events, error, last, broken = await lines_of(response)
    assert broken == "BROKEN"
    assert last == ""
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_broke_off"
    assert not any("[DONE]" in event for event in events)
    assert sum(map(generated, routed.engines)) == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_an_aborted_answer_that_is_not_streamed_is_tried_elsewhere(route: Route, path: str) -> None:
    routed = await route(2)
    for engine in routed.engines:
        engine.faults.add(Fault("abort"))
    async with routed.client.post(path, json=chat("Hello", max_tokens=4)) as response:
        assert response.status == 502
    async with routed.client.post(path, json=chat("Hello", max_tokens=4)) as response:
        assert response.status == 200
        body = await response.json()
    assert body.get("stop_reason") == "max_tokens" or body["choices"][0]["finish_reason"] == "length"


async def test_a_silent_engine_ends_in_a_timeout(route: Route) -> None:
    routed = await route(1, settings={"first_byte_timeout": 0.2})
    routed.engines[0].faults.add(Fault("hang"))
    response, body = await ask(routed, chat("Hello"))
    assert (response.status, body["error"]["code"]) == (504, "engine_timeout")


async def test_an_engine_that_falls_silent_in_mid_stream_ends_in_a_broken_connection(route: Route) -> None:
    routed = await route(1, settings={"silence_timeout": 0.2})
    routed.engines[0].faults.add(Fault("stall"))
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        assert (await lines_of(response))[-1] == "BROKEN"


async def test_a_pod_is_added_drained_and_removed_while_requests_run(route: Route, start_engine: Any) -> None:
    routed = await route(1)
    added = await start_engine(seed=9)
    created = await routed.client.post("/pods", json={"url": added.url})
    assert (created.status, (await created.json())["name"]) == (201, added.pod)
    assert (await routed.client.post("/pods", json={"url": added.url})).status == 409
    assert (await routed.client.post("/pods", json={"url": "nowhere"})).status == 400
    await routed.until_healthy(2)
    first = routed.engines[0]
    drained = await routed.client.patch(f"/pods/{first.pod}", json={"draining": True})
    assert (await drained.json())["draining"] is True
    for number in range(4):
        response, _ = await ask(routed, chat(f"Hello {number}"))
        assert response.headers["X-Kvcache-Pod"] == added.pod
    assert (await routed.client.delete(f"/pods/{added.pod}")).status == 200
    assert added.pod not in await routed.pods()
    response, _ = await ask(routed, chat("Hello"))
    assert response.status == 503


async def test_a_request_without_a_model_goes_to_the_configured_one_of_several(route: Route, start_engine: Any) -> None:
    routed = await route(1)
    other = await start_engine(seed=9, served_models=["other"])
    assert (await routed.client.post("/pods", json={"url": other.url})).status == 201
    await routed.until_healthy(2)
    for number in range(4):
        body = {name: value for name, value in chat(f"Hello {number}").items() if name != "model"}
        response, _ = await ask(routed, body)
        assert response.headers["X-Kvcache-Pod"] == routed.engines[0].pod


async def test_a_large_body_passes(route: Route) -> None:
    routed = await route(1, blocks=400_000)
    body = io.BytesIO(json.dumps(chat("word " * 600_000)).encode())
    async with routed.client.post(CHAT, data=body) as response:
        assert response.status == 200
        answer = await response.json()
    assert answer["usage"]["prompt_tokens"] > 500_000


async def test_a_pod_that_is_added_at_run_time_cannot_name_a_file(serve: Serve) -> None:
    client = await serve()
    for body in ({"url": "http://h,key_file=/etc/passwd"}, {"url": "http://h", "key_file": "/etc/passwd"}):
        assert (await client.post("/pods", json=body)).status == 400


async def test_an_engine_that_restarts_is_used_again_with_its_events(route: Route, start_engine: Any) -> None:
    routed = await route(1, port=free_port())
    first = routed.engines[0]
    await first.stop()
    await routed.until_pods(lambda pods: not pods[first.pod]["healthy"])
    second = await start_engine(port=int(first.pod.rpartition(":")[2]), seed=5)
    routed = Routed(routed.client, [second])
    await routed.until_healthy(1)
    _, answer = await ask(routed, chat(LONG))
    await routed.until_applied(second)
    response, answer = await ask(routed, chat(LONG))
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == int(response.headers["X-Kvcache-Predicted-Tokens"]) > 0


async def test_a_client_of_http_1_0_gets_the_stream_until_the_connection_ends(route: Route) -> None:
    routed = await route(1)
    body = json.dumps(chat("Hello", stream=True)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    writer.write(b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"chunked" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_a_slow_client_slows_the_engine_down_and_loses_nothing(route: Route) -> None:
    routed = await route(1)
    body = json.dumps(chat("Hello", stream=True, ignore_eos=True, max_tokens=20_000)).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", port_of(routed.client)))
        request = b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        await loop.sock_sendall(slow, request)
        received = bytearray()
        while part := await loop.sock_recv(slow, 1 << 16):
            received += part
    assert received.count(b"chat.completion.chunk") == 20_001
    assert received.endswith(b"data: [DONE]\n\n")


OUTSIDE = "a path with `..` is not forwarded"


@pytest.mark.parametrize("path", ["/v1/../sleep", "/v1/%2e%2e/sleep", "/v1/a/..%2f..%2fsleep", "/v1/.."])
async def test_a_path_that_leads_out_of_v1_is_not_forwarded(route: Route, path: str) -> None:
    routed = await route(1)
    url = URL(url_of(routed.client) + path, encoded=True)
    async with routed.client.post(url, json=chat("Hi")) as response:
        assert (response.status, (await response.json())["error"]["message"]) == (404, OUTSIDE)
    assert not routed.engines[0].requests
