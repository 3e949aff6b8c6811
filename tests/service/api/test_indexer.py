"""The endpoints of Mooncake's and Dynamo's indexers."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession

from service.simulation.publisher import Publisher
from tests.service.api.conftest import BLOCK_SIZE, Engine, Join, post, refused
from tests.service.conftest import Serve

TOKENS = list(range(100, 124))
MODEL = "builtin/demo"


async def test_a_query_says_how_many_tokens_each_instance_holds(serve: Serve, join: Join) -> None:
    client = await serve()
    first, second = await join(client, "a"), await join(client, "b")
    await first.stores(TOKENS)
    await second.stores(TOKENS[:8], rank=1)
    answer = await post(client, "/query", {"model": MODEL, "token_ids": TOKENS, "block_size": BLOCK_SIZE})
    assert answer["default"] == {
        "a": {"longest_matched": 24, "GPU": 24, "DP": {"0": 24}, "CPU": 24, "DISK": 24},
        "b": {"longest_matched": 8, "GPU": 8, "DP": {"1": 8}, "CPU": 8, "DISK": 8},
    }
    assert answer["scores"] == {"a": {"0": 24}, "b": {"1": 8}}
    assert answer["instances"]["b"] == {"longest_matched": 8, "gpu": 8, "cpu": 8, "disk": 8, "dp": {"1": 8}}
    one = await post(client, "/query", {"model_name": MODEL, "token_ids": TOKENS, "instance_id": "b"})
    assert list(one["default"]) == ["b"]


async def test_hashes_of_an_engine_are_found_until_the_first_unknown_one(serve: Serve, join: Join) -> None:
    client = await serve()
    engine = await join(client, "a")
    hashes = [2**64 - 1, 5, 6]
    stored = {"type": "BlockStored", "block_hashes": hashes, "token_ids": TOKENS[:12], "block_size": BLOCK_SIZE}
    await engine.says([stored])
    for name in ("seq_hashes", "block_hashes", "block_hash"):
        answer = await post(client, "/query_by_hash", {"model": MODEL, name: [*hashes[:2], 9, 6]})
        assert answer["scores"] == {"a": {"0": 8}}
    assert (await post(client, "/query_by_hash", {"model": MODEL, "seq_hashes": [5]}))["scores"] == {"a": {"0": 4}}
    assert (await post(client, "/query_by_hash", {"model": MODEL, "seq_hashes": [9]}))["scores"] == {}


async def test_what_cannot_be_asked_is_refused(serve: Serve) -> None:
    client = await serve()
    assert (await refused(client, "/query", {"token_ids": [1]}))[:2] == (400, "model")
    assert (await refused(client, "/query", {"model": MODEL, "token_ids": [1], "lora_id": 1}))[:2] == (400, "lora_id")
    salted = {"model": MODEL, "seq_hashes": [1], "cache_salt": "s"}
    assert (await refused(client, "/query_by_hash", salted))[:2] == (400, "cache_salt")
    assert (await refused(client, "/query_by_hash", {"model": MODEL, "seq_hashes": [2**64]}))[0] == 400
    assert (await refused(client, "/unregister", {"instance_id": 7}))[0] == 404


async def test_a_registered_publisher_is_followed_until_it_is_unregistered(serve: Serve, folder: Path) -> None:
    client = await serve()
    address = f"ipc://{folder}/registered"
    body = {"instance_id": 7, "endpoint": address, "modelname": MODEL, "type": "vLLM", "block_size": BLOCK_SIZE}
    assert await post(client, "/register", body) == {"status": "registered successfully", "instance_id": "7"}
    assert (await refused(client, "/register", body))[0] == 409
    async with Publisher(address, None, topic=f"kv@7@{MODEL}", binds=False) as publisher:
        await publisher.subscribed()
        await Engine("7", client, publisher).stores(TOKENS[:8])
        query = {"model": MODEL, "token_ids": TOKENS}
        assert (await post(client, "/query", query))["scores"] == {"7": {"0": 8}}
        ended = await post(client, "/unregister", {"instance_id": 7, "modelname": MODEL})
        assert ended == {"status": "unregistered successfully", "removed_instances": ["7|default|0"]}
        assert (await post(client, "/query", query))["scores"] == {}


async def test_answers_equal_those_of_dynamo_s_indexer(serve: Serve, join: Join) -> None:
    client = await serve()
    first, second = await join(client, "1"), await join(client, "2")
    hashes = list(range(1000, 1006))
    await first.stores(TOKENS)
    await first.stores(TOKENS[:16], rank=1)

    def stored(blocks: int, **fields: Any) -> dict[str, Any]:
        tokens = TOKENS[: blocks * BLOCK_SIZE]
        return {"type": "BlockStored", "block_hashes": hashes[:blocks], "token_ids": tokens, "block_size": 4, **fields}

    sql = {**stored(3), "block_hashes": [50, 51, 52], "lora_name": "sql", "lora_id": 1}
    await second.says([stored(2, medium="GPU"), stored(5, medium="CPU"), sql])
    # As `python -m dynamo.indexer` of ai-dynamo-runtime 1.6.1 answered: scripts/compare_indexer.py.
    query = {"model_name": MODEL, "token_ids": TOKENS}
    answer = await post(client, "/query", query)
    assert answer["scores"] == {"1": {"0": 24, "1": 16}, "2": {"0": 8}}
    assert answer["frequencies"] == []
    assert answer["instances"] == {
        "1": {"longest_matched": 24, "gpu": 24, "cpu": 24, "disk": 24, "dp": {"0": 24, "1": 16}},
        "2": {"longest_matched": 20, "gpu": 8, "cpu": 20, "disk": 20, "dp": {"0": 8}},
    }
    assert (await post(client, "/query", {**query, "lora_name": "sql"}))["scores"] == {"2": {"0": 12}}
    others: list[dict[str, Any]] = [{"cache_salt": "x"}, *({"token_ids": ids} for ids in ([9] * 8, TOKENS[:3], []))]
    for other in others:
        answer = await post(client, "/query", {**query, **other})
        assert (answer["scores"], answer["instances"]) == ({}, {})


async def packed(client: ClientSession, path: str, body: dict[str, Any]) -> Any:
    """The answer in msgpack, as Mooncake's proxy asks for it."""
    headers = {"Content-Type": "application/msgpack"}
    async with client.post(path, data=msgspec.msgpack.encode(body), headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "application/msgpack")
        return msgspec.msgpack.decode(await answer.read())


async def test_mooncake_s_proxy_is_understood(serve: Serve, folder: Path) -> None:
    client = await serve()
    address = f"ipc://{folder}/packed"
    profile = {"strategy": "vllm_v1", "algorithm": "sha256_cbor", "python_hash_seed": "0"}
    body = {"endpoint": address, "type": "vLLM", "modelname": MODEL, "instance_id": "p", "block_size": BLOCK_SIZE}
    registered = await packed(
        client, "/register", {**body, "dp_rank": 0, "tenant_id": "a", "lora_name": "", "hash_profile": profile}
    )
    assert registered == {"status": "registered successfully", "instance_id": "p"}
    tokens = array("I", TOKENS)
    if sys.byteorder == "big":
        tokens.byteswap()
    query = {"model": MODEL, "block_size": BLOCK_SIZE, "token_ids": tokens.tobytes(), "lora_name": ""}
    async with Publisher(address, None, topic=f"kv@p@{MODEL}", binds=False) as publisher:
        await publisher.subscribed()
        await Engine("p", client, publisher).stores(TOKENS[:8])
        answer = await packed(client, "/query", {**query, "tenant_id": "a"})
        assert answer["instances"]["p"]["longest_matched"] == 8
        assert (await packed(client, "/query", {**query, "tenant_id": "b"}))["instances"] == {}
    headers = {"Content-Type": "application/msgpack"}
    broken = msgspec.msgpack.encode({**query, "token_ids": b"123"})
    async with client.post("/query", data=broken, headers=headers) as refusal:
        assert (refusal.status, (await refusal.json())["error"]["param"]) == (400, "token_ids")


async def test_a_tenant_sees_its_own_instances_and_pods_that_nobody_registered(
    serve: Serve, join: Join, folder: Path
) -> None:
    client = await serve()
    await (await join(client, "shared")).stores(TOKENS[:4])
    address = f"ipc://{folder}/of-a"
    body = {"instance_id": "of-a", "endpoint": address, "modelname": MODEL, "routing_group": "a"}
    await post(client, "/register", body)
    other = {**body, "endpoint": f"ipc://{folder}/other", "dp_rank": 1, "routing_group": "b"}
    assert (await refused(client, "/register", other))[0] == 409
    query = {"model": MODEL, "token_ids": TOKENS}
    async with Publisher(address, None, topic=f"kv@of-a@{MODEL}", binds=False) as publisher:
        await publisher.subscribed()
        await Engine("of-a", client, publisher).stores(TOKENS[:8])
        seen = {
            tenant: set((await post(client, "/query", {**query, **tenant_field}))["instances"])
            for tenant, tenant_field in (("a", {"tenant_id": "a"}), ("b", {"tenant_id": "b"}), ("", {}))
        }
        assert seen == {"a": {"shared", "of-a"}, "b": {"shared"}, "": {"shared"}}
        assert (await refused(client, "/unregister", {"instance_id": "of-a", "tenant_id": "b"}))[0] == 404
        ended = await post(client, "/unregister", {"instance_id": "of-a", "tenant_id": "a"})
        assert ended["removed_instances"] == ["of-a|a|0"]


async def test_names_that_are_too_long_to_be_kept_are_refused(serve: Serve) -> None:
    client, long = await serve(), "x" * 1025
    register = {"instance_id": "a", "endpoint": "tcp://127.0.0.1:1", "modelname": MODEL}
    for path, body, fields in (
        (
            "/query",
            {"model": MODEL, "token_ids": TOKENS},
            ("model", "model_name", "lora_name", "cache_salt", "tenant_id"),
        ),
        ("/query_by_hash", {"model": MODEL, "seq_hashes": [1]}, ("model_name", "routing_group", "instance_id")),
        ("/register", register, ("instance_id", "endpoint", "replay_endpoint", "modelname", "tenant_id")),
        ("/unregister", {"instance_id": "a"}, ("instance_id", "tenant_id")),
        ("/pods", {"url": "http://127.0.0.1:1"}, ("url", "name", "events", "replay", "model")),
    ):
        for field in fields:
            assert (await refused(client, path, {**body, field: long}))[:2] == (400, field), (path, field)


async def test_several_addresses_at_once_are_refused_with_the_reason(serve: Serve) -> None:
    body = {"instance_id": "a", "endpoint": "tcp://127.0.0.1:1,tcp://127.0.0.1:2", "modelname": MODEL}
    assert await refused(await serve(), "/register", body) == (
        400,
        "endpoint",
        "names 2 addresses; register each by itself",
    )
