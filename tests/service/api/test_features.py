"""Token ids with media, as routers send them that render by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.api.conftest import BLOCK_SIZE, Join, post, refused
from tests.service.conftest import Serve

TOKENS = list(range(100, 100 + 4 * BLOCK_SIZE))
FEATURES = {"mm_hashes": {"image": ["cat"]}, "mm_placeholders": {"image": [{"offset": 5, "length": 4}]}}


def asked(features: Any = None, tokens: Any = None) -> dict[str, Any]:
    body = {"model": "builtin/demo", "prompt": TOKENS if tokens is None else tokens}
    return body if features is None else {**body, "features": features}


async def test_media_are_part_of_the_blocks_that_hold_them(serve: Serve, join: Join) -> None:
    client = await serve(block_size=BLOCK_SIZE)
    engine = await join(client, "a")
    await engine.stores(TOKENS, extra_keys=[None, [["cat", 1]], [["cat", -3]], None])
    assert await post(client, "/score", asked(FEATURES)) == {"a": 4}
    assert await post(client, "/score", asked()) == {"a": 1}
    dog = {**FEATURES, "mm_hashes": {"image": ["dog"]}}
    assert await post(client, "/score", asked(dog)) == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        asked({"mm_hashes": {"image": ["cat"]}}),
        asked(FEATURES, "text"),
        asked(FEATURES, [[1, 2], [3]]),
        asked(FEATURES, [1, 2, 3]),
        {**asked(FEATURES), "truncate_prompt_tokens": 3},
    ],
)
async def test_features_without_their_tokens_are_refused(serve: Serve, body: dict[str, Any]) -> None:
    status, param, _ = await refused(await serve(), "/score", body)
    assert (status, param) == (400, "features")
