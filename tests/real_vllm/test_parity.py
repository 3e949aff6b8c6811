"""A real engine whose prompts differ from ours is found out when it joins, and mended or named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.real_vllm.conftest import StartEngine
from tests.real_vllm.servers import Engine, Kvcache, running_kvcache

ALIAS = "chat:latest"
TEMPLATE = (
    "{% for message in messages %}<{{ message.role | upper }}>{{ message.content }}\n{% endfor %}"
    "{% if mood %}({{ mood }}){% endif %}{% if add_generation_prompt %}<ASSISTANT>{% endif %}"
)
MOOD = {"mood": "dry"}
CHAT: dict[str, Any] = {"model": ALIAS, "messages": [{"role": "user", "content": "Why is the sky blue? " * 40}]}


@pytest.fixture
def joined(tmp_path: Path) -> Any:
    @contextmanager
    def start(engine: Engine, **settings: str) -> Iterator[Kvcache]:
        patient = {"PODS": f"http://{engine.pod}", "RENDER_URL_TIMEOUT": "60", **settings}
        with running_kvcache([engine], tmp_path / "models", **patient) as kvcache:
            yield kvcache

    return start


def test_a_template_and_its_default_variables_under_an_alias(engine: StartEngine, joined: Any, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(TEMPLATE)
    flags = ("--chat-template", str(template), "--default-chat-template-kwargs", json.dumps(MOOD))
    started = engine("granite", ALIAS, *flags)
    with joined(started) as kvcache:
        parity = kvcache.parity(started)
        assert (parity["model"], parity["chats"], parity["texts"]) == (ALIAS, "differs", "equal")
        assert parity["difference"]["engine"].startswith("<USER>Hello")
        # Mended: the engine's own tokens are scored.
        usage = started.post("/v1/chat/completions", **CHAT, max_tokens=1)["usage"]
        kvcache.settle(started)
        answer = kvcache.post("/explain", **CHAT)
        assert answer.headers["X-Kvcache-Renderer"] == "engine"
        assert answer.headers["X-Kvcache-Parity"] == "equal"
        assert answer.json()["tokens"] == usage["prompt_tokens"]
        (match,) = answer.json()["matches"]
        assert match["matched_blocks"] == match["blocks"] > 3
    options = {ALIAS: {"chat_template": str(template), "default_chat_template_kwargs": MOOD}}
    with joined(started, MODEL_OPTIONS=json.dumps(options)) as kvcache:
        parity = kvcache.parity(started)
        assert (parity["verdict"], parity["renderer"]) == ("equal", "template"), parity


def test_gpt_oss_is_rendered_by_harmony(engine: StartEngine, joined: Any) -> None:
    pytest.importorskip("openai_harmony", reason="oss-harmony is not installed")
    started = engine("gpt_oss", ALIAS, "--enable-scale-out")
    with joined(started) as kvcache:
        parity = kvcache.parity(started)
        assert (parity["verdict"], parity["renderer"]) == ("equal", "harmony"), parity
    with joined(started, RENDERERS=f"{ALIAS}=template") as kvcache:
        parity = kvcache.parity(started)
        assert parity["chats"] == "differs"
        assert "RENDERERS" in parity["remedy"]
        assert kvcache.post("/score", **CHAT).headers["X-Kvcache-Parity"] == "differs"
