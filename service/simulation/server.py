"""A whole simulated engine behind HTTP: the endpoints of vLLM 0.33's server, one cache and event stream per rank."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count, cycle
from typing import Any, NamedTuple, TypeAlias

import msgspec
from aiohttp import web

from service.prompts.errors import PromptError
from service.prompts.models.model import Model
from service.simulation import answers, other_answers
from service.simulation.engine import SimulatedEngine
from service.simulation.faults import Fault, Faults
from service.simulation.other_answers import MessageAnswer, ResponseAnswer
from service.simulation.other_requests import chat_of_message, chat_of_response
from service.simulation.prompts import (
    BadRequest,
    Work,
    chat_tokens,
    completion_tokens,
    embedded_tokens,
    read_chat,
    read_completion,
)
from service.simulation.publisher import Publisher
from service.simulation.scheduler import PromptTooLong, Scheduler, Speed

VERSION = "0.33.0"
_ACCEPTING_TURNS = 4
"""Turns of the event loop until a connection that was just accepted is known, and can be closed."""
_KEEP_ALIVE_SECONDS = 5.0  # uvicorn's default
_MAX_BODY_BYTES = 64 << 20
_RENDERING = frozenset(("/tokenize", "/v1/chat/completions/render", "/v1/completions/render"))
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with timeout 0: close sends RST

_Body: TypeAlias = dict[str, Any]


class _Api(NamedTuple):
    """An API for generation: how its bodies are read, and the form and the first letters of its answers."""

    read: Callable[[_Body, Model], Awaitable[Work]]
    answer: type[answers.Answer]
    prefix: str
    as_chat: Callable[[_Body], _Body] = lambda body: body


_CHAT = _Api(read_chat, answers.Answer, "chatcmpl-")
_COMPLETION = _Api(read_completion, answers.Answer, "cmpl-")
_RESPONSE = _Api(read_chat, ResponseAnswer, "resp_", chat_of_response)
_MESSAGE = _Api(read_chat, MessageAnswer, "msg_", chat_of_message)


class Part(StrEnum):
    """A part that an engine has only with an option."""

    EVENTS = "events"
    REPLAY = "replay"
    EVENT_SOURCES = "kv-event-sources"
    PROMPT_TOKENS_DETAILS = "prompt-tokens-details"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """An engine's parameters. Port 0 is any free port; `topic` may contain {pod} and {model}."""

    served_models: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 0
    ranks: int = 1
    blocks: int = 4096
    block_size: int = 16
    seed: int = 0
    eagle: bool = False
    topic: str = "kv@{pod}@{model}"
    speed: Speed = field(default_factory=Speed)
    announced_host: str = "*"
    """The host that /kv_event_sources names, as an engine that was told a wrong one does."""
    without: frozenset[Part] = frozenset()
    kept_requests: int = 0
    """Number of recent requests to keep, for tests; those that only render are not kept."""


class Received(NamedTuple):
    """A received request."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class _Stream(NamedTuple):
    answer: answers.Answer
    work: Work
    tokens: AsyncIterator[int]
    options: dict[str, Any]
    fault: Fault | None


class EngineServer:
    """A running engine, created with `serving`."""

    def __init__(self, options: EngineOptions, model: Model, pod: str, ranks: Sequence[Scheduler]) -> None:
        self._runner: web.AppRunner | None = None
        self.pod = pod
        self.ranks = ranks
        self.faults = Faults()
        self.requests: deque[Received] = deque(maxlen=options.kept_requests)
        self.aborted = 0
        """Requests whose client left before the end."""
        self.healthy = True
        self._options = options
        self._model = model
        self._listener: socket.socket | None = None
        self._next_rank = cycle(range(len(ranks)))
        self._numbers = count(1)

    @property
    def url(self) -> str:
        return f"http://{self.pod}"

    @property
    def publishes(self) -> bool:
        """Whether it has event sockets."""
        return Part.EVENTS not in self._options.without

    @property
    def in_flight(self) -> int:
        """The number of waiting and running requests over all ranks."""
        return sum(rank.waiting + rank.running for rank in self.ranks)

    async def start(self, listener: socket.socket) -> None:
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_errors])
        app.add_routes(self.routes())
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,  # a client that leaves aborts its request
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            access_log=None,
            shutdown_timeout=0.0,
        )
        await self._runner.setup()
        self._listener = listener
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Stops listening and closes all connections; the event streams stay open."""
        if self._runner is not None:
            sites = list(self._runner.sites)
            loop = asyncio.get_running_loop()
            if sites and self._listener is not None and isinstance(loop, asyncio.SelectorEventLoop):
                # asyncio loses a connection that is being accepted when its server closes: it stays open, unknown.
                # uvloop does not, and its own reader must not be removed.
                loop.remove_reader(self._listener)
                await _turns()
            for site in sites:
                await site.stop()
            await _turns()
            await self._runner.cleanup()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self._health, allow_head=False),
            web.get("/version", self._version),
            web.get("/v1/models", self._models),
            web.get("/kv_event_sources", self._event_sources),
            web.get("/metrics", self._metrics),
            web.post("/tokenize", self._tokenize),
            web.post("/reset_prefix_cache", self._reset_prefix_cache),
            web.post("/v1/chat/completions", self._chat),
            web.post("/v1/completions", self._completion),
            web.post("/v1/responses", self._response),
            web.post("/v1/messages", self._message),
            web.post("/v1/embeddings", self._embeddings),
            web.post("/v1/chat/completions/render", self._render_chat),
            web.post("/v1/completions/render", self._render_completion),
            web.post("/simulation/faults", self._add_fault),
            web.delete("/simulation/faults", self._clear_faults),
        ]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _version(self, request: web.Request) -> web.Response:
        return _json(msgspec.json.encode({"version": VERSION}))

    async def _models(self, request: web.Request) -> web.Response:
        return _json(answers.models(self._options.served_models, self._model.name, self.ranks[0].max_tokens))

    async def _event_sources(self, request: web.Request) -> web.Response:
        if Part.EVENT_SOURCES in self._options.without:
            raise web.HTTPNotFound
        has_replay = Part.REPLAY not in self._options.without
        sources = {
            str(number): {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": self._announced(rank.publisher.address),
                "replay_endpoint": self._announced(rank.publisher.replay) if has_replay else None,
                "buffer_steps": 10_000,
                "hwm": 100_000,
                "max_queue_size": 100_000,
                "topic": rank.publisher.topic.decode(),
            }
            for number, rank in enumerate(self.ranks)
        }
        return _json(msgspec.json.encode(sources if self.publishes else {}))

    def _announced(self, address: str) -> str:
        return address.replace(self._options.host, self._options.announced_host)

    async def _metrics(self, request: web.Request) -> web.Response:
        lines = []
        for name, kind, values in (
            ("num_requests_running", "gauge", [rank.running for rank in self.ranks]),
            ("num_requests_waiting", "gauge", [rank.waiting for rank in self.ranks]),
            ("kv_cache_usage_perc", "gauge", [rank.running / self._options.speed.max_running for rank in self.ranks]),
            ("prefix_cache_queries_total", "counter", [rank.queried_tokens for rank in self.ranks]),
            ("prefix_cache_hits_total", "counter", [rank.hit_tokens for rank in self.ranks]),
        ):
            lines.append(f"# TYPE vllm:{name.removesuffix('_total')} {kind}")
            labels = f'model_name="{self._options.served_models[0]}"'
            for number, value in enumerate(values):
                lines.append(f'vllm:{name}{{engine="{number}",{labels}}} {float(value)}')
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        tokens = await (chat_tokens if "messages" in body else completion_tokens)(body, self._model)
        limit = self.ranks[0].max_tokens
        return _json(
            msgspec.json.encode(
                {"count": len(tokens), "max_model_len": limit, "tokens": list(tokens), "token_strs": None}
            )
        )

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        for rank in self.ranks:
            rank.clear()
        return web.Response()

    async def _render_chat(self, request: web.Request) -> web.Response:
        tokens = await chat_tokens(await self._body(request), self._model)
        return _json(msgspec.json.encode({"token_ids": list(tokens), "features": None}))

    async def _render_completion(self, request: web.Request) -> web.Response:
        tokens = await completion_tokens(await self._body(request), self._model)
        return _json(msgspec.json.encode([{"token_ids": list(tokens), "features": None}]))

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = msgspec.json.decode(await request.read(), type=Fault)
        except msgspec.DecodeError as error:
            raise BadRequest(str(error)) from None
        self.faults.add(fault)
        return _json(msgspec.json.encode({"coming": len(self.faults)}))

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self.faults.clear()
        return web.Response(status=204)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, _CHAT)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, _COMPLETION)

    async def _response(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, _RESPONSE)

    async def _message(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, _MESSAGE)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        prompts = await embedded_tokens(body, self._model)
        name = body.get("model") or self._options.served_models[0]
        return _json(other_answers.embeddings(name, prompts, as_base64=body.get("encoding_format") == "base64"))

    async def _generate(self, request: web.Request, api: _Api) -> web.StreamResponse:
        try:
            body = api.as_chat(await self._body(request))
            fault = self.faults.take()
            if fault is not None and (refused := await _before_answer(request, fault)) is not None:
                return refused
            number = self._rank(request)
            work = await api.read(body, self._model)
            rank = self.ranks[number]
            rank.check(work.prompt)
            identity = request.headers.get("X-Request-Id") or f"{next(self._numbers):032x}"
            answer = api.answer(
                f"{api.prefix}{identity}",
                body.get("model") or self._options.served_models[0],
                api is not _COMPLETION,
                len(work.prompt),
                0,
                work.tool,
                tells_reuse=Part.PROMPT_TOKENS_DETAILS not in self._options.without,
            )
            response = await _begun(request, answer.created()) if body.get("stream") else None
            async with rank.run(work.prompt, work.output, body.get("cache_salt")) as running:
                answer = replace(answer, cached_tokens=running.cached_tokens)
                if response is not None:
                    options = body.get("stream_options") or {}
                    stream = _Stream(answer, work, running.tokens, options, fault)
                    return await self._stream(request, response, stream)
                tokens = [token async for token in running.tokens]
                if fault is not None and fault.kind in {"die", "engine_dead"}:
                    _reset(request)
                reason = "abort" if fault is not None and fault.kind == "abort" else work.finish_reason
                return _json(answer.whole(work.text, tokens, reason))
        except asyncio.CancelledError:
            self.aborted += 1
            raise

    async def _stream(self, request: web.Request, response: web.StreamResponse, stream: _Stream) -> web.StreamResponse:
        answer, work, tokens, options, fault = stream
        texts = list(answers.pieces(work.text, len(work.output)))
        generated = 0
        async for _ in tokens:
            if fault is not None and generated == fault.after:
                if (end := await self._mid_stream(request, answer, fault)) is None:
                    continue
                await response.write(end)
                return response
            head = answer.first() if generated == 0 else b""
            reason = work.finish_reason if generated + 1 == len(work.output) else None
            usage = generated + 1 if options.get("continuous_usage_stats") else None
            await response.write(head + answer.part(texts[generated], reason, usage))
            generated += 1
        usage_asked = bool(options.get("include_usage"))
        await response.write(answer.end(work.text, generated, work.finish_reason, include_usage=usage_asked))
        return response

    async def _mid_stream(self, request: web.Request, answer: answers.Answer, fault: Fault) -> bytes | None:
        """Triggers a fault in mid-stream; returns the last bytes of the answer if it still ends properly."""
        match fault.kind:
            case "die":
                _reset(request)
            case "stall":
                await asyncio.Event().wait()
            case "abort":
                return answer.aborted()
            case "engine_dead":
                self.healthy = False
                return answer.failed()
        return None

    async def _body(self, request: web.Request) -> dict[str, Any]:
        raw = await request.read()
        if request.path not in _RENDERING:
            self.requests.append(Received(request.method, request.raw_path, tuple(request.raw_headers), raw))
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"invalid JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        model = body.get("model")
        if model is not None and model not in self._options.served_models:
            raise web.HTTPNotFound(
                text=answers.error(404, f"The model `{model}` does not exist.", "NotFoundError", "model").decode(),
                content_type="application/json",
            )
        return body

    def _rank(self, request: web.Request) -> int:
        """The rank from X-data-parallel-rank, otherwise round robin."""
        asked = request.headers.get("X-data-parallel-rank")
        if asked is None:
            return next(self._next_rank)
        if not asked.isdecimal() or int(asked) >= len(self.ranks):
            raise BadRequest(f"data_parallel_rank {asked} is out of range [0, {len(self.ranks)})")
        return int(asked)


async def _turns() -> None:
    for _ in range(_ACCEPTING_TURNS):
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(options: EngineOptions, model: Model) -> AsyncIterator[EngineServer]:
    """Runs an engine until the context ends; then closes all its connections at once, as if it was killed."""
    listener = socket.create_server((options.host, options.port), backlog=1024)
    pod = f"{options.host}:{listener.getsockname()[1]}"
    topic = options.topic.format(pod=pod, model=options.served_models[0])
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        ranks = []
        for number in range(options.ranks):
            address, replay = f"tcp://{options.host}:*", f"tcp://{options.host}:*"
            if Part.EVENTS in options.without:  # nobody else has this context
                address, replay = "inproc://events", "inproc://replay"
            publisher = Publisher(
                address, None if Part.REPLAY in options.without else replay, topic=topic, buffered=10_000, linger=0.2
            )
            cache = SimulatedEngine(options.blocks, options.block_size, options.seed * 1000 + number + 1, options.eagle)
            ranks.append(Scheduler(number, cache, await stack.enter_async_context(publisher), options.speed))
        engine = EngineServer(options, model, pod, ranks)
        await engine.start(listener)
        stack.push_async_callback(engine.stop)
        yield engine


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (BadRequest, PromptError, PromptTooLong) as error:
        body = answers.error(400, str(error), "BadRequestError", getattr(error, "param", None))
        return _json(body, 400)
    except ConnectionResetError:  # a fault, or the client has left: nothing can be sent
        return web.Response()


async def _begun(request: web.Request, events: bytes) -> web.StreamResponse:
    """A stream whose head and first events are sent: vLLM sends them before it computes the prompt."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if events:
        await response.write(events)
    return response


async def _before_answer(request: web.Request, fault: Fault) -> web.Response | None:
    """Triggers a fault before any answer; returns None for a fault in mid-stream."""
    match fault.kind:
        case "status":
            kind = "RateLimitError" if fault.status == 429 else "ServiceUnavailableError"
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return _json(answers.error(fault.status, "simulated fault", kind), fault.status, headers)
        case "reset":
            _reset(request)
        case "hang":
            await asyncio.Event().wait()
    return None


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    raise ConnectionResetError("simulated fault")


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
