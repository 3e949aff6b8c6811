"""A chat with two images: the answer of vLLM 0.32's /v1/chat/completions/render for a LLaVA, as it was recorded."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.conftest import ROOT
from tests.service.api.conftest import BLOCK_SIZE, Join
from tests.service.conftest import Serve

FILE = ROOT / "tests" / "service" / "prompts" / "renderers" / "vllm" / "llava-two-images.json"
RECORDED: dict[str, Any] = json.loads(FILE.read_text())
MODEL = "builtin/demo"
IMAGES = ((5, 16), (23, 16))


def extra_keys(count: int, *identifiers: str) -> list[Any]:
    """vLLM's extra keys of blocks: the images that they overlap, with the start of each, from the block's start on."""
    return [
        [
            [identifier, offset - start]
            for identifier, (offset, length) in zip(identifiers, IMAGES, strict=True)
            if offset < start + BLOCK_SIZE and start < offset + length
        ]
        or None
        for start in range(0, count, BLOCK_SIZE)
    ]


async def test_a_chat_with_images_has_the_blocks_that_its_engine_announces(serve: Serve, join: Join) -> None:
    asked: list[Any] = []

    async def render(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response(RECORDED["answer"])

    app = web.Application()
    app.router.add_post("/v1/chat/completions/render", render)
    features = RECORDED["answer"]["features"]
    assert [(one["offset"], one["length"]) for one in features["mm_placeholders"]["image"]] == list(IMAGES)
    red, blue = features["mm_hashes"]["image"]
    tokens = RECORDED["answer"]["token_ids"]
    count = len(tokens) // BLOCK_SIZE
    tokens = tokens[: count * BLOCK_SIZE]
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        client = await serve(block_size=BLOCK_SIZE, render_url=url, renderers=((MODEL, "engine"),))
        for pod, identifiers in {"same": (red, blue), "swapped": (blue, red), "half": (red, "a dog")}.items():
            engine = await join(client, pod)
            await engine.stores(tokens, extra_keys=extra_keys(len(tokens), *identifiers))
        async with client.post("/score", json={**RECORDED["request"], "model": MODEL}) as answer:
            assert answer.headers["X-Kvcache-Renderer"] == "engine"
            scores = await answer.json()
    assert asked[0]["messages"] == RECORDED["request"]["messages"]
    # Blocks before the first image, and before the second one.
    assert scores == {"same": count, "swapped": 5 // BLOCK_SIZE, "half": 23 // BLOCK_SIZE}
