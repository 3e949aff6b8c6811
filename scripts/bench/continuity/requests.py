"""Turns that clients send through the gateways of replicas, each over a connection of its own."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

from scripts.bench.continuity.fleet import BLOCK_SIZE, MODEL, TURN_TOKENS, Fleet
from scripts.bench.continuity.outcome import Phase


class Failed(Exception):
    """No answer with status 200; `client_port` is that of the connection, 0 if there was none."""

    def __init__(self, problem: str, client_port: int) -> None:
        super().__init__(problem)
        self.client_port = client_port


class Answer(NamedTuple):
    pod: str
    predicted: int | None
    """None if the prediction rests on a placement."""
    basis: str
    cached: int
    """Prompt tokens that the engine says it has reused."""
    client_port: int


async def ask(port: int, tokens: Sequence[int], *, generate: int = 1) -> Answer:
    """Sends a prompt over a new connection. Raises Failed."""
    body = {"model": MODEL, "prompt": list(tokens), "max_tokens": generate, "ignore_eos": True}
    headers, answer, client_port = await _post(port, "/v1/completions", body)
    predicted = headers.get("x-kvcache-predicted-tokens")
    return Answer(
        headers["x-kvcache-pod"],
        int(predicted) if predicted is not None else None,
        headers.get("x-kvcache-predicted-from", ""),
        (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        client_port,
    )


async def knows_holder(port: int, tokens: Sequence[int]) -> bool:
    """Whether a replica knows of any pod that holds a prefix. Raises Failed."""
    body = {"model": MODEL, "token_ids": list(tokens), "block_size": BLOCK_SIZE}
    _, answer, _ = await _post(port, "/query", body)
    return any(tokens for ranks in answer["scores"].values() for tokens in ranks.values())


async def _post(port: int, path: str, content: dict[str, Any]) -> tuple[dict[str, str], Any, int]:
    """The headers and the body of the answer, and the client's port. Raises Failed."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    client_port = 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise Failed(str(error), client_port) from error
    try:
        client_port = writer.get_extra_info("sockname")[1]
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
    except OSError as error:
        raise Failed(str(error), client_port) from error
    finally:
        with suppress(OSError):
            writer.close()
    headers, read = _read(answer, client_port)
    return headers, read, client_port


def _read(answer: bytes, client_port: int) -> tuple[dict[str, str], Any]:
    lines, _, body = answer.partition(b"\r\n\r\n")
    first, *others = lines.decode().split("\r\n")
    if " 200 " not in f"{first} ":
        raise Failed(f"{first}: {body[:200]!r}", client_port)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in others)}
    try:
        return headers, json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    except ValueError as error:
        raise Failed("the answer is not whole", client_port) from error


class Requests:
    """Follow-up turns of random conversations, `rate` per second, whatever their answers take.

    `port_of` gives the port for the next request, `led_to` the port of the replica that it was led to, by the client's
    port, and `killed` is that of a replica which was killed.
    Each tenth answer has `long` tokens.
    """

    def __init__(
        self,
        fleet: Fleet,
        port_of: Callable[[], int],
        rate: float,
        *,
        led_to: Callable[[int], int | None] | None = None,
        killed: int | None = None,
        long: int = 1,
    ) -> None:
        self.phase = Phase("")
        self.problems: list[str] = []
        self._fleet = fleet
        self._port_of = port_of
        self._rate = rate
        self._led_to = led_to
        self._killed = killed
        self._long = long
        self._busy: set[int] = set()
        self._sent = 0

    def begin(self, title: str) -> Phase:
        self.phase = Phase(title)
        return self.phase

    async def run(self) -> None:
        """Ends the requests in flight when it is cancelled."""
        began, count = monotonic(), 0
        async with asyncio.TaskGroup() as turns:
            while True:
                count += 1
                await asyncio.sleep(max(0.0, began + count / self._rate - monotonic()))
                turns.create_task(self._turn())

    async def _turn(self) -> None:
        fleet, phase = self._fleet, self.phase
        number = fleet.random.randrange(len(fleet.conversations))
        while number in self._busy:
            number = fleet.random.randrange(len(fleet.conversations))
        self._busy.add(number)
        conversation = fleet.conversations[number]
        conversation.extend(fleet.tokens(TURN_TOKENS))
        holders = fleet.holders(conversation)
        self._sent += 1
        began = monotonic()
        generate = self._long if self._sent % 10 == 0 else 1
        port = self._port_of()
        try:
            answer = await ask(port, conversation, generate=generate)
            if generate == 1:
                phase.seconds.append(monotonic() - began)
            _count(phase, conversation, answer)
            if answer.predicted == 0 and holders:
                port = port if self._led_to is None else self._led_to(answer.client_port) or port
                knows = await knows_holder(port, conversation[:-TURN_TOKENS])
                phase.elsewhere += knows
                phase.blind += not knows
        except Failed as failed:
            phase.failed += 1
            if self._led_to is not None and self._killed is not None:
                phase.cut += self._led_to(failed.client_port) == self._killed
            self.problems.append(str(failed))
        finally:
            self._busy.discard(number)


def _count(phase: Phase, prompt: array[int], answer: Answer) -> None:
    phase.decisions += 1
    phase.prompt_tokens += len(prompt)
    phase.reused_tokens += answer.cached
    if answer.predicted is not None and answer.predicted > answer.cached:
        phase.too_much += 1
        phase.over_claims += "inexact" not in answer.basis


@asynccontextmanager
async def requesting(requests: Requests) -> AsyncIterator[Requests]:
    """Requests go on until the context ends."""
    running = asyncio.create_task(requests.run())
    try:
        yield requests
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
