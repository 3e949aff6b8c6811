"""Chats through a gateway to real engines, with what was predicted and what was reused."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import requests

from tests.real_vllm.servers import MODEL, Engine, Kvcache, running_kvcache

CHAT = "/v1/chat/completions"
WITH_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "granite")
"""Options of `vllm serve` for chats with tools."""
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of a harbour",
            "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
        },
    }
    for name in ("tide", "weather")
]


class Answered(NamedTuple):
    """A request's answer: who gave it, and prompt tokens as predicted (None without a prediction), as reused, in total.

    `basis` tells what the prediction rests on.
    """

    pod: str
    rank: int
    predicted: int | None
    reused: int
    tokens: int
    text: str
    basis: str | None


def wrong(answers: Sequence[Answered]) -> list[Answered]:
    """The answers whose certain prediction is not what the engine reused; most predictions must be certain."""
    certain = [answer for answer in answers if answer.predicted is not None and answer.basis != "events, inexact"]
    assert 2 * len(certain) > len(answers)
    return [answer for answer in certain if answer.predicted != answer.reused]


def gateway_to(*engines: Engine, models_dir: Path, **settings: str) -> AbstractContextManager[Kvcache]:
    """Starts a kvcache that is given the URLs of engines, and more settings if any, but not where their events are."""
    pods = ",".join(f"http://{engine.pod}" for engine in engines)
    own = {"PODS": pods, "ZMQ_ENDPOINT": "tcp://127.0.0.1:*", "HEALTH_INTERVAL": "0.5s"}
    return running_kvcache([], models_dir, **own, **settings)


def ask(kvcache: Kvcache, messages: list[dict[str, Any]], *, stream: bool = False, **fields: Any) -> Answered:
    """Sends a chat through the gateway."""
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 8, "ignore_eos": True, **fields}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = requests.post(f"{kvcache.url}{CHAT}", json=body, timeout=300)
    assert answer.ok, answer.text
    if stream:
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        *chunks, last = map(json.loads, lines[:-1])
        usage = last["usage"]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    else:
        usage, text = answer.json()["usage"], answer.json()["choices"][0]["message"]["content"] or ""
    reused = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    pod, rank = answer.headers["X-Kvcache-Pod"], int(answer.headers.get("X-Kvcache-Rank", 0))
    predicted = answer.headers.get("X-Kvcache-Predicted-Tokens")
    basis = answer.headers.get("X-Kvcache-Predicted-From")
    return Answered(
        pod, rank, None if predicted is None else int(predicted), reused, usage["prompt_tokens"], text, basis
    )


def converse(kvcache: Kvcache, engines: Sequence[Engine], count: int, seed: int) -> list[Answered]:
    """Growing chats of several users, with tools or without, streamed or not; each waits for the events before it."""
    chooser = random.Random(seed)
    system = {"role": "system", "content": " ".join(f"Rule {number}: be brief." for number in range(20))}
    chats: list[list[dict[str, Any]]] = [[system] for _ in range(6)]
    answers = []
    for number in range(count):
        which = chooser.randrange(len(chats))
        if len(chats[which]) > 12:
            chats[which] = [system]
        question = " ".join(str(chooser.randrange(10_000)) for _ in range(chooser.randrange(5, 40)))
        chats[which].append({"role": "user", "content": question})
        tools = {"tools": TOOLS} if which % 2 else {}
        answer = ask(kvcache, chats[which], stream=number % 3 > 0, **tools)
        chats[which].append({"role": "assistant", "content": answer.text})
        kvcache.settle(next(engine for engine in engines if engine.pod == answer.pod))
        answers.append(answer)
    return answers
