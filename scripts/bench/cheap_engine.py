"""Engines that answer at once and cost little, so that a gateway in front of them is what is measured.

    python -m scripts.bench.cheap_engine MODEL COUNT MODELS_DIR

Prints the port of each on one line. Answers have the shape of vLLM's; a streamed one has `max_tokens` events, one every
CHUNK_SECONDS. The field `seed` of a request is the number of its tokens, for the usage: kvcache does not look up the
prompts of a model that counts other tokens. The tokens of /render are every other pair of the body's bytes, so that
growing chats share a prefix; those of a request without `max_tokens`, by which kvcache compares, are the model's own.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from array import array
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.simulation.prompts import BadRequest, chat_tokens, completion_tokens

CHUNK_SECONDS = 0.004
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:\s*100-continue", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":\s*(\d+)')
_SEED = re.compile(rb'"seed":\s*(\d+)')
_INCLUDE_USAGE = re.compile(rb'"include_usage":\s*true')
_CREATED = 1_700_000_000
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


class CheapEngine(asyncio.Protocol):
    """One connection to an engine."""

    def __init__(self, loaded: Model) -> None:
        self._loop = asyncio.get_running_loop()
        self._model, model = loaded, loaded.name
        self._rendering: asyncio.Task[None] | None = None
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        identity = {"id": "chatcmpl-0", "created": _CREATED, "model": model}
        message = {"role": "assistant", "content": "An answer.", "tool_calls": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        self._whole = {**identity, "object": "chat.completion", "choices": [choice], "prompt_logprobs": None}
        card = {"id": model, "object": "model", "owned_by": "vllm", "root": model, "max_model_len": 1 << 20}
        self._pages = {
            b"/health": _answer(b""),
            b"/v1/models": _json({"object": "list", "data": [card]}),
            b"/version": _json({"version": "0.33.0"}),
            b"/metrics": _answer(b'vllm:num_requests_running{engine="0"} 0.0\n'),
        }
        delta = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
        self._head = {**identity, "object": "chat.completion.chunk"}
        self._chunk = _event({**self._head, "choices": [delta]})
        self._last = _event({**self._head, "choices": [{**delta, "finish_reason": "stop"}]})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        head = bytes(self._received[:end])
        if head.startswith(b"PRI "):  # some gateways try HTTP/2 first
            self._transport.close()
            return
        length = _LENGTH.search(head)
        start = end + len(_HEAD_END)
        stop = start + (int(length[1]) if length else 0)
        if len(self._received) < stop:
            if _EXPECTS.search(head) and len(self._received) == start:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        body, self._received = bytes(self._received[start:stop]), self._received[stop:]
        self._serve(head.split(b" ", 2)[1].partition(b"?")[0], body)

    def _serve(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/render") and not _MAX_TOKENS.search(body):
            self._rendering = self._loop.create_task(self._render(body))
        elif path.endswith(b"/render"):
            tokens = array("H", body[: len(body) // 4 * 4])[::2].tolist()
            self._transport.write(_json({"token_ids": tokens, "features": None}))
        elif not path.endswith(b"/completions"):
            missing = _json({"detail": "Not Found"}, b"404 Not Found")
            self._transport.write(self._pages.get(path, missing))
        elif _STREAM.search(body):
            asked = _MAX_TOKENS.search(body)
            self._transport.write(_STREAM_HEAD)
            end = self._last
            if _INCLUDE_USAGE.search(body):
                end += _event({**self._head, "choices": [], "usage": _usage(body)})
            self._go_on(int(asked[1]) if asked else 16, end)
        else:
            self._transport.write(_json({**self._whole, "usage": _usage(body)}))

    async def _render(self, body: bytes) -> None:
        request = msgspec.json.decode(body)
        try:
            tokens = await (chat_tokens if "messages" in request else completion_tokens)(request, self._model)
            rendered = {"token_ids": list(tokens), "features": None}
            answer = _json(rendered if "messages" in request else [rendered])
        except (BadRequest, PromptError) as error:
            answer = _json({"error": {"message": str(error)}}, b"400 Bad Request")
        if not self._transport.is_closing():  # a client that did not wait
            self._transport.write(answer)

    def _go_on(self, left: int, end: bytes) -> None:
        """Sends one event, and the next one later."""
        if left > 1:
            self._transport.write(self._chunk)
            self._timer = self._loop.call_later(CHUNK_SECONDS, self._go_on, left - 1, end)
        else:
            self._transport.write(b"%b%b0\r\n\r\n" % (end, _framed(b"data: [DONE]\n\n")))


def _usage(body: bytes) -> dict[str, int]:
    counted = _SEED.search(body)
    tokens = int(counted[1]) if counted else 1
    return {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}


def _answer(body: bytes, status: bytes = b"200 OK", kind: bytes = b"text/plain") -> bytes:
    head = b"HTTP/1.1 %b\r\nserver: uvicorn\r\ncontent-type: %b\r\ncontent-length: %d%b"
    return head % (status, kind, len(body), _HEAD_END) + body


def _json(value: object, status: bytes = b"200 OK") -> bytes:
    return _answer(msgspec.json.encode(value), status, b"application/json")


def _event(value: object) -> bytes:
    return _framed(b"data: %b\n\n" % msgspec.json.encode(value))


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _serve(name: str, count: int, models_dir: Path) -> None:
    models = Models(PromptOptions(models_dir=models_dir))
    model = await models.get(name)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    servers = [await loop.create_server(lambda: CheapEngine(model), "127.0.0.1", 0) for _ in range(count)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await stop.wait()
    await models.close()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
