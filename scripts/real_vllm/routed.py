"""Routed requests to real engines: what the gateway predicts, held against what each engine says that it reused.

    python -m scripts.real_vllm.routed ENGINE_URL... [--requests 2000] [--conversations 3] [--pause 0] [--seed 1]

Starts a kvcache with these engines as PODS. They serve one model (scripts/real_vllm/serve) with
`--enable-prompt-tokens-details`, `--enable-auto-tool-choice --tool-call-parser granite`, and a cache small enough that
it evicts (`--num-gpu-blocks-override 200`). Exits with 1 if a prediction is wrong that no other request of the engine
could change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen
from time import monotonic
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout

from service.contract.endpoints import Endpoint, format_endpoints

_ROOT: Final = Path(__file__).resolve().parents[2]
_WORDS: Final = (_ROOT / "scripts" / "demo_corpus.txt").read_text(encoding="utf-8").split(" ")
_LISTENING: Final = re.compile(r"listening on (http://\S+)")
_LONGEST: Final = 1500
"""Tokens after which a conversation begins anew."""
_USERS: Final = 12
_SYSTEMS: Final = 4
_TOOLS: Final = [
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


@dataclass(slots=True)
class Answer:
    """One request and its answer. Times are in seconds of one clock, numbers in tokens."""

    kind: str
    sent: float
    began: float
    ended: float
    pod: str
    predicted: int | None
    basis: str
    """What the prediction rests on, as its header says."""
    renderer: str
    reused: int
    tokens: int
    text: str = field(repr=False)


@dataclass(slots=True)
class User:
    """One conversation: a chat, or the growing text of completions."""

    kind: str
    system: str
    salt: str | None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def begin(self) -> None:
        self.messages = [{"role": "system", "content": self.system}]

    def request(self, model: str, question: str, *, stream: bool, max_tokens: int) -> tuple[str, dict[str, Any]]:
        """The path and the body of the next request."""
        self.messages.append({"role": "user", "content": question})
        body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        if self.salt is not None:
            body["cache_salt"] = self.salt
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.kind == "completion":
            return "/v1/completions", body | {"prompt": "\n".join(one["content"] for one in self.messages)}
        if self.kind == "tools":
            body["tools"] = _TOOLS
        return "/v1/chat/completions", body | {"messages": self.messages}


def users(random: Random) -> list[User]:
    """Conversations of all kinds; several share a system prompt, and some a salt."""
    systems = [_prose(random, words) for words in (60, 150, 300, 450)]
    kinds = ("chat", "tools", "completion", "chat")
    made = []
    for number in range(_USERS):
        salt = f"tenant {number % 2}" if number % 4 == 3 else None
        made.append(User(kinds[number % len(kinds)], systems[number // len(kinds) % _SYSTEMS], salt))
        made[-1].begin()
    return made


def _prose(random: Random, words: int) -> str:
    start = random.randrange(len(_WORDS) - words)
    return " ".join(_WORDS[start : start + words])


def _text(choice: dict[str, Any]) -> str:
    """The text in a choice of a whole answer, or of a chunk of one."""
    message = choice.get("delta") or choice.get("message") or {}
    return choice.get("text") or message.get("content") or ""


async def ask(client: ClientSession, url: str, model: str, user: User, random: Random) -> Answer:
    """Sends the next request of a conversation, and adds the answer to it."""
    stream = random.random() < 0.5
    question = _prose(random, random.randrange(5, 60))
    path, body = user.request(model, question, stream=stream, max_tokens=random.choice((1, 4, 16)))
    sent = monotonic()
    began = 0.0
    data = b""
    async with client.post(f"{url}{path}", json=body) as response:
        async for piece in response.content.iter_any():
            began = began or monotonic()
            data += piece
        if response.status != 200:
            raise SystemExit(f"{response.status}: {data.decode(errors='replace')}")
        headers = response.headers
    parts = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: {")] if stream else [data]
    chunks = [json.loads(part) for part in parts]
    text = "".join(_text(choice) for chunk in chunks for choice in chunk["choices"])
    usage = chunks[-1]["usage"]
    user.messages.append({"role": "assistant", "content": text})
    if usage["total_tokens"] > _LONGEST:
        user.begin()
    predicted = headers.get("X-Kvcache-Predicted-Tokens")
    return Answer(
        kind=f"{user.kind}{', salt' if user.salt else ''}{', stream' if stream else ''}",
        sent=sent,
        began=began,
        ended=monotonic(),
        pod=headers["X-Kvcache-Pod"],
        predicted=None if predicted is None else int(predicted),
        basis=headers.get("X-Kvcache-Predicted-From", "no prediction"),
        renderer=f"{headers.get('X-Kvcache-Renderer')}, parity {headers.get('X-Kvcache-Parity')}",
        reused=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        tokens=usage["prompt_tokens"],
        text=text,
    )


async def converse(
    url: str, model: str, *, requests: int, conversations: int, seed: int, seconds: float, pause: float
) -> list[Answer]:
    """Sends requests, so many conversations at a time: each waits for its own last answer, and then makes room."""
    random = Random(seed)
    waiting = users(random)
    answers: list[Answer] = []
    started, deadline = 0, monotonic() + seconds

    async def worker(client: ClientSession) -> None:
        nonlocal started
        while started < requests and monotonic() < deadline:
            started += 1
            user = waiting.pop(random.randrange(len(waiting)))
            answers.append(await ask(client, url, model, user, random))
            waiting.append(user)
            await asyncio.sleep(pause)
            if len(answers) % 100 == 0:
                print(f"{len(answers)} answers", file=sys.stderr, flush=True)

    async with ClientSession(timeout=ClientTimeout(total=300)) as client:
        await asyncio.gather(*(worker(client) for _ in range(conversations)))
    return answers


def report(answers: Sequence[Answer]) -> int:
    """Prints the tables; gives the number of wrong predictions that nothing in flight could change."""
    rows: dict[str, Counter[str]] = {}
    wrong = 0
    for answer in answers:
        if answer.predicted is None:
            result = "not predicted"
        else:
            result = "equal" if answer.predicted == answer.reused else "different"
        rows.setdefault(answer.basis, Counter())[result] += 1
        if result == "different":
            wrong += answer.basis == "events"
            print(
                f"{answer.basis}: predicted {answer.predicted}, reused {answer.reused} of {answer.tokens} tokens"
                f" ({answer.kind}, {answer.pod}, at {answer.sent:.3f}, first token {answer.began - answer.sent:.3f} s)"
            )
    print("| prediction rests on | requests | equal | different | not predicted |\n| --- | --- | --- | --- | --- |")
    for basis, counts in sorted(rows.items()):
        print(f"| {basis} | {counts.total()} | {counts['equal']} | {counts['different']} | {counts['not predicted']} |")
    tokens = sum(answer.tokens for answer in answers)
    print(f"{len(answers)} requests in {max(a.ended for a in answers) - min(a.sent for a in answers):.0f} s;", end=" ")
    print(f"hit rate {sum(answer.reused for answer in answers) / tokens:.1%} of {tokens} prompt tokens")
    print("requests by pod:", dict(Counter(answer.pod for answer in answers)))
    print("requests by renderer:", dict(Counter(answer.renderer for answer in answers)))
    print("requests by kind:", dict(Counter(answer.kind for answer in answers)))
    return wrong


@contextmanager
def gateway(engines: Sequence[str]) -> Iterator[str]:
    """Starts a kvcache that is given the URLs of engines, and gives its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "CONTAINER_ENV": "true",
        "MODEL_NAME": "builtin/demo",
        "PODS": ",".join(engines),
        "ZMQ_ENDPOINT": format_endpoints([Endpoint("tcp://127.0.0.1:*")]),
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "RENDER_URL_TIMEOUT": "60",
    }
    process = Popen((sys.executable, "-m", "service", "serve"), env=environment, stdout=PIPE, text=True, cwd=_ROOT)
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield next(found[1] for line in process.stdout if (found := _LISTENING.search(line)))
    finally:
        process.terminate()
        process.communicate()


async def _pods(url: str, count: int) -> list[dict[str, Any]]:
    """What GET /pods says of the fleet, once all engines are healthy and compared."""
    async with ClientSession() as client:
        while True:
            async with client.get(f"{url}/pods") as response:
                fleet: list[dict[str, Any]] = (await response.json())["fleet"]
            if sum(bool(pod["healthy"] and pod["parity"]) for pod in fleet) == count:
                return fleet
            await asyncio.sleep(0.2)


async def _metrics(url: str) -> list[str]:
    async with ClientSession() as client, client.get(f"{url}/metrics") as response:
        names = ("kvcache_routed_", "kvcache_index_evictions", "kvcache_events_batches", "kvcache_events_lag")
        return [line for line in (await response.text()).splitlines() if line.startswith(names)]


async def _main(options: argparse.Namespace) -> int:
    with gateway(options.engines) as url:
        fleet = await _pods(url, len(options.engines))
        model = fleet[0]["parity"][0]["model"]
        answers = await converse(
            url,
            model,
            requests=options.requests,
            conversations=options.conversations,
            seed=options.seed,
            seconds=options.seconds,
            pause=options.pause,
        )
        wrong = report(answers)
        for pod in await _pods(url, len(options.engines)):
            print(pod["name"], "reuse:", pod["reuse"], "parity:", [one["verdict"] for one in pod["parity"]])
        print("\n".join(await _metrics(url)))
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engines", nargs="+", metavar="ENGINE_URL")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--conversations", type=int, default=3, help="in flight at a time (3)")
    parser.add_argument("--seconds", type=float, default=3600, help="no request is sent after so long (3600)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each answer (0)")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(_main(parser.parse_args())))
