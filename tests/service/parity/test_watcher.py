"""A service finds out, by itself, whether its tokens are those of its pods."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from service.contract.endpoints import parse_endpoints
from service.contract.pods import PodEntry
from service.simulation.server import EngineServer
from tests.conftest import BUILTIN
from tests.service.conftest import Serve
from tests.service.engines import MODEL, chat
from tests.service.gateway.routed import Routed
from tests.service.parity.conftest import StartEngine
from tests.waiting import PATIENCE

SHOUTING = "{% for message in messages %}<{{ message.role | upper }}>{{ message.content }}{% endfor %}"


async def parities(client: ClientSession) -> list[dict[str, Any]]:
    fleet = (await (await client.get("/pods")).json())["fleet"]
    return [parity for pod in fleet for parity in pod["parity"]]


def _are_compared(pods: dict[str, dict[str, Any]]) -> bool:
    return all(pod["models"] and len(pod["parity"]) == len(pod["models"]) for pod in pods.values())


async def started(serve: Serve, *engines: EngineServer, **changes: Any) -> ClientSession:
    """A service that has compared its tokens with those of the engines."""
    pods = tuple(PodEntry(engine.url, engine.pod) for engine in engines)
    client = await serve(pods=pods, health_interval=0.2, **changes)
    await Routed(client, engines).until_pods(_are_compared)
    return client


async def test_equal_tokens_are_known_to_be_equal(serve: Serve, start_engine: StartEngine) -> None:
    client = await started(serve, await start_engine())
    (parity,) = await parities(client)
    assert (parity["model"], parity["verdict"], parity["difference"]) == (MODEL, "equal", None)
    assert parity["compared"] > 30
    (card,) = (await (await client.get("/v1/models")).json())["data"]
    assert (card["root"], card["parity"], card["renderer"]) == (MODEL, "equal", "template")
    for body in (chat("Hi"), {"prompt": "Hi", "model": MODEL}):
        for path in ("/score", "/explain"):
            assert (await client.post(path, json=body)).headers["X-Kvcache-Parity"] == "equal"
    explained = await (await client.post("/explain", json=chat("Hi"))).json()
    assert (explained["renderer"], explained["parity"]) == ("template", "equal")
    metrics = await (await client.get("/metrics")).text()
    assert f'model="{MODEL}"' in metrics and 'verdict="equal"} 1.0' in metrics


async def test_token_ids_of_the_client_are_no_renderers(serve: Serve, start_engine: StartEngine) -> None:
    client = await started(serve, await start_engine())
    answer = await client.post("/score", json={"prompt": [1, 2, 3], "model": MODEL})
    assert answer.headers["X-Kvcache-Renderer"] == "client"
    assert "X-Kvcache-Parity" not in answer.headers


async def test_an_engine_with_another_chat_template_is_found_out(serve: Serve, start_engine: StartEngine) -> None:
    client = await started(serve, await start_engine(SHOUTING))
    (parity,) = await parities(client)
    assert (parity["verdict"], parity["chats"], parity["texts"]) == ("differs", "differs", "equal")
    assert parity["difference"]["request"] == "hello"
    assert parity["difference"]["engine"].startswith("<USER>Hello")
    assert "template" in parity["remedy"]
    answer = await client.post("/score", json={"prompt": "Hi", "model": MODEL})
    assert answer.headers["X-Kvcache-Parity"] == "equal"


async def test_an_engine_that_restarts_with_another_template_is_found_out(
    serve: Serve, start_engine: StartEngine
) -> None:
    engine = await start_engine()
    client = await started(serve, engine)
    routed, port = Routed(client, [engine]), int(engine.pod.rpartition(":")[2])
    await engine.stop()
    await routed.until_pods(lambda pods: pods[engine.pod]["healthy"] is False)
    await start_engine(SHOUTING, port=port)
    await routed.until_pods(lambda pods: pods[engine.pod]["parity"][0]["verdict"] == "differs")


async def test_an_engine_that_restarts_has_its_files_read_again(
    serve: Serve, start_engine: StartEngine, tmp_path: Path
) -> None:
    name = "org/model"
    folder = tmp_path / "ours" / name
    shutil.copytree(BUILTIN, folder)
    engine = await start_engine(served_models=[name])
    client = await started(serve, engine, models_dir=tmp_path / "ours")
    assert [parity["verdict"] for parity in await parities(client)] == ["equal"]
    (folder / "chat_template.jinja").write_text(SHOUTING)
    routed, port = Routed(client, [engine]), int(engine.pod.rpartition(":")[2])
    await engine.stop()
    await routed.until_pods(lambda pods: pods[engine.pod]["healthy"] is False)
    await start_engine(SHOUTING, served_models=[name], port=port)

    async def explained() -> tuple[str, str, str]:
        found = await (await client.post("/explain", json={**chat("Hi"), "model": name})).json()
        return found.get("text"), found.get("renderer"), found.get("parity")

    async with asyncio.timeout(PATIENCE):
        while True:
            if await explained() == ("<USER>Hi", "template", "equal"):
                break
            await asyncio.sleep(0.01)


async def test_files_are_read_again_on_request(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "org" / "model"
    shutil.copytree(BUILTIN, folder)
    client = await serve(models_dir=tmp_path)
    body = {**chat("Hi"), "model": "org/model"}
    assert (await (await client.post("/explain", json=body)).json())["text"] != "<USER>Hi"
    (folder / "chat_template.jinja").write_text(SHOUTING)
    answer = await client.post("/models/refresh", json={"model": "org/model"})
    assert await answer.json() == {"model": "org/model", "changed": True}
    assert (await (await client.post("/explain", json=body)).json())["text"] == "<USER>Hi"
    assert (await client.post("/models/refresh", json={"model": "org/none"})).status == 404


async def test_an_endpoint_with_the_url_of_its_engine_is_compared_and_heard_once(
    serve: Serve, start_engine: StartEngine
) -> None:
    engine = await start_engine()
    address = engine.ranks[0].publisher.address
    client = await serve(zmq_endpoint=parse_endpoints(f"{address},url={engine.url}"), health_interval=0.2)
    await Routed(client, [engine]).until_pods(_are_compared)
    assert [parity["verdict"] for parity in await parities(client)] == ["equal"]
    addresses = [one["address"] for one in (await (await client.get("/endpoints")).json())["endpoints"]]
    assert addresses == [address]


async def test_one_pod_that_differs_decides_for_all(serve: Serve, start_engine: StartEngine) -> None:
    client = await started(serve, await start_engine(), await start_engine(SHOUTING))
    assert sorted(parity["verdict"] for parity in await parities(client)) == ["differs", "equal"]
    assert (await client.get("/metrics")).status == 200
    assert (await (await client.get("/v1/models")).json())["data"][0]["parity"] == "differs"


async def test_an_alias_is_known_by_the_root_that_its_engine_gives(serve: Serve, start_engine: StartEngine) -> None:
    client = await started(serve, await start_engine(served_models=["/mnt/models", "a/b/c", "x:latest"]))
    assert [(parity["model"], parity["verdict"]) for parity in await parities(client)] == [
        ("/mnt/models", "equal"),
        ("a/b/c", "equal"),
        ("x:latest", "equal"),
    ]
    answer = await client.post("/score", json={**chat("Hi"), "model": "x:latest"})
    assert (answer.status, answer.headers["X-Kvcache-Parity"]) == (200, "equal")
