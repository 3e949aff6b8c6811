"""The endpoints of Mooncake's and Dynamo's indexers."""

from __future__ import annotations

from pathlib import Path

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
    one = await post(client, "/query", {"model_name": MODEL, "token_ids": TOKENS, "instance_id": "b", "tenant_id": "t"})
    assert list(one["t"]) == ["b"]


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
    assert (await refused(client, "/query", {"model": MODEL, "token_ids": []}))[:2] == (400, "token_ids")
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
