"""ACCESS_LOG: one line for each request that is routed, or that no pod could take."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import ClientSession

from service.access_log import AccessLog
from service.contract.pods import PodEntry
from service.gateway.request_record import RequestRecord
from service.log import STDOUT
from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from tests.command import free_port
from tests.service.conftest import Serve, port_of
from tests.service.engines import MODEL, chat
from tests.service.gateway.routed import CHAT, Before, Route
from tests.service.gateway.scripted import answer
from tests.waiting import PATIENCE, until

LONG = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 20


class Log:
    """The lines that the service has written on standard output."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def lines(self) -> list[str]:
        STDOUT.flush(PATIENCE)  # what a thread writes while the capture is read would be lost
        self._text += self._capture.readouterr().out
        return [line for line in self._text.splitlines() if "service.routed" in line]

    async def wait_for(self, count: int) -> list[str]:
        await until(lambda: len(self.lines()) >= count)
        assert len(self.lines()) == count
        return self.lines()

    async def objects(self, count: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in await self.wait_for(count)]


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Log:
    return Log(capfd)


async def test_a_line_tells_where_a_request_went_and_what_the_engine_reused(route: Route, log: Log) -> None:
    routed = await route(1, settings={"access_log": "json"})
    for _ in range(2):
        body = chat(LONG, max_tokens=3, stream=True, stream_options={"include_usage": True})
        async with routed.client.post(f"{CHAT}?key=secret", json=body) as response:
            text = await response.read()
        await routed.until_applied(routed.engines[0])
    first, second = await log.objects(2)
    assert first["cached_tokens"] == first["predicted_tokens"] == 0
    assert second["cached_tokens"] == second["predicted_tokens"] > 0
    assert second["predicted_from"].startswith("events")
    assert second["prompt_tokens"] > second["cached_tokens"]
    assert second["generated_tokens"] == 3
    assert 0 < second["first_token_seconds"] <= second["seconds"]
    assert second["bytes"] >= len(text)
    assert (
        second.items()
        >= {
            "level": "info",
            "logger": "service.routed",
            "method": "POST",
            "path": CHAT,
            "status": 200,
            "pod": routed.engines[0].pod,
            "rank": 0,
            "model": MODEL,
            "stream": True,
            "retries": 0,
            "client": "127.0.0.1",
            "client_left": False,
            "error": None,
        }.items()
    )
    assert "secret" not in json.dumps(second)
    assert "harbour" not in json.dumps(second)


async def test_nothing_is_written_by_default(route: Route, log: Log) -> None:
    routed = await route(1)
    async with routed.client.post(CHAT, json=chat("Hi")) as response:
        assert response.status == 200
        assert "X-Request-Id" not in response.headers
    assert all(name.lower() != b"x-request-id" for name, _ in routed.engines[0].requests[-1].headers)
    assert log.lines() == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [("job-17:a", True), (None, False), ("two words", False), ("x" * 129, False), ('"', False), ("ä", False)],
)
async def test_engine_client_and_log_know_a_request_by_one_id(
    route: Route, log: Log, given: str | None, kept: bool
) -> None:
    routed = await route(1, settings={"access_log": "json"})
    headers = {} if given is None else {"X-Request-Id": given}
    async with routed.client.post(CHAT, json=chat("Hi"), headers=headers) as response:
        told = response.headers["X-Request-Id"]
    (line,) = await log.objects(1)
    sent = [value for name, value in routed.engines[0].requests[-1].headers if name.lower() == b"x-request-id"]
    assert sent == [told.encode()]
    assert line["id"] == told
    assert (told == given) is kept
    assert kept or re.fullmatch("[0-9a-f]{32}", told)


async def test_the_id_that_an_engine_answers_with_stays(before: Before, log: Log) -> None:
    headers = b"Content-Type: application/json\r\nX-Request-Id: of-the-engine\r\n"
    routed, _ = await before(answer(b"{}", headers=headers), access_log="json")
    async with routed.client.post(CHAT, json=chat("Hi"), headers={"X-Request-Id": "mine"}) as response:
        assert response.headers.getall("X-Request-Id") == ["of-the-engine"]
    (line,) = await log.objects(1)
    assert line["id"] == "mine"


async def test_a_retry_is_counted_and_the_pod_is_the_one_that_answered(route: Route, log: Log) -> None:
    routed = await route(2, settings={"access_log": "json"})
    routed.engines[0].faults.add(Fault("status"))
    routed.engines[1].faults.add(Fault("status"))
    async with routed.client.post(CHAT, json=chat("Hi")) as response:
        assert response.status == 503
        pod = response.headers["X-Kvcache-Pod"]
    (line,) = await log.objects(1)
    assert (line["retries"], line["status"], line["pod"]) == (1, 503, pod)


async def test_a_request_that_no_pod_takes_has_a_line(serve: Serve, log: Log) -> None:
    client = await serve(pods=(PodEntry(f"http://127.0.0.1:{free_port()}", "gone"),), access_log="json")
    async with client.post(CHAT, json=chat("Hi")) as response:
        assert response.status == 503
        told = response.headers["X-Request-Id"]
        size = len(await response.read())
    (line,) = await log.objects(1)
    assert (line["id"], line["status"], line["bytes"], line["retries"]) == (told, 503, size, 0)
    assert line["error"].startswith("no pod can take the request (gone: ")
    assert line["model"] == MODEL


@pytest.mark.parametrize("moment", ["before the answer", "in mid-stream"])
async def test_a_client_that_leaves_is_told(route: Route, log: Log, moment: str) -> None:
    routed = await route(1, speed=Speed(decode_seconds=0.01), settings={"access_log": "json"})
    routed.engines[0].faults.add(Fault("stall", after=2))
    body = json.dumps(chat("Hello", stream=moment == "in mid-stream", max_tokens=20)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    head = b"POST %b HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
    writer.write(head + body)
    if moment == "in mid-stream":
        await asyncio.wait_for(reader.readuntil(b"data:"), PATIENCE)
    else:
        await until(lambda: any(received.path == CHAT for received in routed.engines[0].requests))
    writer.transport.abort()
    (line,) = await log.objects(1)
    assert line["client_left"] is True
    assert line["pod"] == routed.engines[0].pod
    assert line["status"] == (200 if moment == "in mid-stream" else 499)
    assert (line["bytes"] > 0) is (moment == "in mid-stream")


async def test_an_answer_that_breaks_off_says_so(route: Route, log: Log) -> None:
    routed = await route(1, settings={"access_log": "json"})
    routed.engines[0].faults.add(Fault("die", after=2))
    with pytest.raises(Exception, match=r".+"):
        async with routed.client.post(CHAT, json=chat("Hi", stream=True, max_tokens=20)) as response:
            await response.read()
    (line,) = await log.objects(1)
    assert line["error"].startswith("the engine broke off: ")
    assert (line["status"], line["client_left"]) == (200, False)


async def test_requests_that_are_not_routed_have_no_line(route: Route, log: Log) -> None:
    routed = await route(1, settings={"access_log": "json"})
    async with routed.client.post("/score", json={"prompt": "Hi"}) as response:
        assert response.status == 200
    async with routed.client.get("/v1/anything") as response:
        assert response.status == 404
    (line,) = await log.objects(1)
    assert (line["method"], line["path"], line["model"]) == ("GET", "/v1/anything", None)


async def test_a_line_for_people_is_aligned(route: Route, log: Log) -> None:
    routed = await route(1, settings={"access_log": "human"})
    await _ask(routed.client, chat("Hi", max_tokens=3))
    await _ask(routed.client, chat(LONG, max_tokens=30, stream=True))
    await log.wait_for(2)
    lines = log.lines()
    assert re.fullmatch(
        r"[-\d]{10} [:\d]{8}\.\d{3} INFO    service\.routed: 200 pod=127\.0\.0\.1:\d+/0 +predicted=0 +cached=0 +"
        r"prompt=\d+ +generated=3 +first=- +total=\d+\.\d{3} +retries=0 bytes=\d+ +client=127\.0\.0\.1 +left=no  "
        rf"id=[0-9a-f]{{32}} POST {CHAT} model={MODEL}",
        lines[0],
    )
    assert lines[0].index(" id=") == lines[1].index(" id=")


@pytest.mark.parametrize("how", ["json", "human"])
@pytest.mark.parametrize(
    "text", ["\x00\n\r\x1b[31m" * 1000, "\udc80" * 5000, "\U0001f600" * 5000, '" \\' * 5000, "\u2028\x7f" * 999]
)
def test_whatever_strangers_send_a_line_is_one_line_that_a_pipe_keeps_whole(how: str, text: str) -> None:
    written: list[bytes] = []
    record = RequestRecord(
        id="i" * 128, received_at=1.0, method="POST", path=text, client="::1", model=text, pod=text, error=text
    )
    AccessLog(is_json=how == "json", worker=3, write=written.append)(record)
    (line,) = written
    assert len(line) < 4096
    decoded = line.decode()
    assert decoded.endswith("\n")
    assert decoded[:-1].isprintable()
    assert how == "human" or json.loads(line)["worker"] == 3


async def _ask(client: ClientSession, body: dict[str, Any]) -> None:
    async with client.post(CHAT, json=body) as response:
        assert response.status == 200
        await response.read()
