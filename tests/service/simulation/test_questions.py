"""Recordings of real engines through real sockets, asked in mid-stream: no wrong answer claims to be exact."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any

import pytest
from aiohttp import ClientSession

from service.contract.endpoints import Endpoint
from service.events.recording import Recorded, Recording, recorded_pod
from service.events.topic import read_topic
from service.index.base import Rank
from service.simulation.playback import stream_key
from service.simulation.questions import Progress, Question, read_requests
from tests.conftest import ROOT
from tests.service.conftest import Serve
from tests.service.playback import playing
from tests.waiting import PATIENCE

FOLDER = ROOT / "tests" / "recordings"
NAMES = sorted(
    str(path.relative_to(FOLDER)).removesuffix(".requests.jsonl") for path in FOLDER.glob("*/*.requests.jsonl")
)
KNOWN_WRONG = {
    "scheduler/min_offload_reset_connector",
    "scheduler/sg_p16_extra_key",
}
"""Recordings for which the index is wrong and claims to be exact: no event tells."""
EAGLE = {"scheduler/eagle_drop"}
"""Recordings of engines with EAGLE that hash no lookahead tokens."""


def sender(message: Recorded) -> Rank:
    """Who published a message, as its topic and its batch say."""
    source = read_topic(message.topic, Endpoint("recording", pod=message.pod), "builtin/demo")
    return Rank(source.pod, source.model, stream_key(message).rank)


async def heard(client: ClientSession, rank: Rank, sequence: int) -> dict[str, Any]:
    """What /pods says of a rank once its batch of that number was applied."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for pod in (await (await client.get("/pods")).json())["pods"]:
                if (pod["pod"], pod["rank"], pod["last_sequence"]) == (rank.pod, rank.number, sequence):
                    return dict(pod)
            await asyncio.sleep(0.002)


async def matched(client: ClientSession, rank: Rank, question: Question, tokens: list[int]) -> dict[str, Any]:
    """What /explain says that a rank has of a prompt."""
    body = {
        "model": rank.model,
        "prompt": tokens,
        "lora_name": question.lora_name,
        "cache_salt": question.cache_salt,
        "pods": [rank.pod],
    }
    answer = await client.post("/explain", json=body)
    assert answer.status == 200, await answer.text()
    matches = [match for match in (await answer.json())["matches"] if match["rank"] == rank.number]
    return matches[0] if matches else {"matched_tokens": 0, "matched_tokens_by_tier": {"gpu": 0}}


async def is_right(client: ClientSession, rank: Rank, question: Question) -> bool:
    """Whether the service answers what the engine itself would have reused."""
    tokens = question.tokens.tolist()
    match = await matched(client, rank, question, tokens)
    if match["matched_tokens"] == len(tokens) and not question.whole:
        match = await matched(client, rank, question, tokens[:-1])  # the last token is always computed
    on_gpu = match["matched_tokens_by_tier"]["gpu"]
    return match["matched_tokens"] == question.reused and question.gpu_reused in (None, on_gpu)


def known_wrong(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(reason="the index is wrong here and claims to be exact")] if name in KNOWN_WRONG else []


@pytest.mark.parametrize("name", [pytest.param(name, marks=known_wrong(name)) for name in NAMES])
async def test_no_answer_in_mid_stream_is_wrong_and_claims_to_be_exact(serve: Serve, name: str) -> None:
    questions = read_requests(FOLDER / f"{name}.requests.jsonl", block_size=16)
    with (FOLDER / f"{name}.jsonl").open("rb") as lines:
        messages = list(Recording(lines))
    ranks = {recorded_pod(sender(message)): sender(message) for message in messages}
    progress = Progress.of((recorded_pod(sender(message)), message) for message in messages)
    wrong: list[str] = []
    async with playing(messages) as playback:
        endpoints = [replace(endpoint, eagle="1" if name in EAGLE else None) for endpoint in playback.endpoints]
        client = await serve(zmq_endpoint=tuple(endpoints))
        for publisher in playback.publishers.values():
            await publisher.subscribed()
        for before, asked in groupby(questions, attrgetter("before")):
            together = list(asked)
            for message in progress.until(together[0]):
                playback.publishers[stream_key(message)].publish(message.payload, sequence=message.sequence)
            exact = {pod: (await heard(client, ranks[pod], n))["exact"] for pod, n in before.items() if n >= 0}
            wrong += [
                question.name
                for question in together
                if exact.get(question.pod, True) and not await is_right(client, ranks[question.pod], question)
            ]
    assert wrong == []
