"""Asks engines for all that stops or spoils their predictions, and prints one JSON object per pod.

Each engine gets a few requests for one token, of made-up token ids: an idle engine publishes nothing, and its usage
says whether it reuses a repeated prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import aiohttp

from service.commands.command_line import parser
from service.commands.listen import Listener, listen
from service.contract.examined import Examined, write_examined
from service.contract.listening import Heard
from service.contract.pods import PodEntry, parse_pods
from service.contract.settings import Settings
from service.fleet.probe import Probe, ProbeFailed
from service.fleet.registry import Learned, Pod

_TIMEOUT = 30.0
_CONNECT_SECONDS = 2.0
_EVENT_SECONDS = 1.0
_TRIES = 3
"""The first events may be published before the engine has the subscription."""
_BLOCK_SIZE = 256
"""Assumed where /metrics does not tell it; larger than those of engines by default."""
_CONFIG = re.compile(rb"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(rb'(\w+)="([^"]*)"')


class _Usage(NamedTuple):
    """The usage of one answer; `reused` is None if the engine does not tell it."""

    reused: int | None


class _CacheConfig(NamedTuple):
    block_size: int | None = None
    prefix_caching: bool | None = None
    hash_algorithm: str | None = None


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    command = parser("examine", __doc__)
    command.add_argument("--pods", required=True, help="as PODS")
    options = command.parse_args(arguments)
    try:
        pods = parse_pods(options.pods)
    except ValueError as error:
        command.error(f"--pods: {error}")
    asyncio.run(_run(options, pods))
    return 0


async def _run(options: argparse.Namespace, pods: Sequence[PodEntry]) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session:
        for examined in await asyncio.gather(*(_examine(session, entry) for entry in pods)):
            print(write_examined(examined), flush=True)  # noqa: T201


async def _examine(session: aiohttp.ClientSession, entry: PodEntry) -> Examined:
    pod = Pod(entry)
    try:
        pod.key = _key(entry)
        pod.learned = learned = await Probe(session).learn(pod)
        config = _cache_config(await Probe(session).metrics(pod))
    except (ProbeFailed, OSError) as error:
        heard = await _heard(pod, Settings().model_name, lambda _: asyncio.sleep(_EVENT_SECONDS))
        return Examined(entry.name, entry.url, problem=str(error), sources=heard)
    engine = _Engine(session, pod, learned, config)
    names = [model.id for model in sorted(learned.models, key=lambda model: model.parent is not None)]
    heard = await _heard(pod, next(iter(names), Settings().model_name), engine.make_it_work)
    return Examined(
        pod=entry.name,
        url=entry.url,
        engine=learned.engine,
        version=learned.version,
        models=names,
        root=next((model.root for model in learned.models if model.parent is None), None),
        tells_sources=learned.tells_sources,
        sources=heard,
        unanswered=engine.problem,
        tells_reuse=None if engine.usage is None else engine.usage.reused is not None,
        reused_tokens=(engine.usage.reused if engine.usage is not None else None) or 0,
        block_size=config.block_size,
        prefix_caching=config.prefix_caching,
        hash_algorithm=config.hash_algorithm,
    )


async def _heard(pod: Pod, model: str, meanwhile: Callable[[Sequence[Listener]], Awaitable[None]]) -> list[Heard]:
    """Listens to its event sockets, but not to those of ipc and inproc."""
    heard = await listen([source for source in pod.sources if not source.binds], model, meanwhile)
    unreachable = "only processes of the engine's own machine reach it"
    return heard + [
        Heard(source.address, False, 0, (), (), (), (), (), problem=unreachable)
        for source in pod.sources
        if source.binds
    ]


def _key(entry: PodEntry) -> str | None:
    return Path(entry.key_file).read_text(encoding="utf-8").strip() if entry.key_file else None


class _Engine:
    """Sends requests to an engine. Afterwards `usage` is that of a prompt which it had computed before."""

    def __init__(self, session: aiohttp.ClientSession, pod: Pod, learned: Learned, config: _CacheConfig) -> None:
        self.usage: _Usage | None = None
        self.problem: str | None = None
        self._session = session
        self._pod = pod
        self._model = next((model for model in learned.models if model.parent is None), None)
        length = 2 * (config.block_size or _BLOCK_SIZE) + 1
        longest = self._model.max_model_len if self._model is not None else None
        self._length = min(length, longest - 2) if longest else length
        self._random = Random()  # noqa: S311 - no two prompts begin alike

    async def make_it_work(self, listeners: Sequence[Listener]) -> None:
        """Sends each rank prompts until its events come, a second each, and then its last prompt once more."""
        await _wait(lambda: all(one.is_connected for one in listeners), _CONNECT_SECONDS)
        prompt: list[int] = []
        rank = None
        try:
            for _ in range(_TRIES):
                for number, listener in enumerate(listeners or [None]):
                    if listener is None or not listener.messages:
                        rank = number if len(listeners) > 1 else None
                        prompt = [self._random.randrange(10, 200) for _ in range(self._length)]
                        await self._complete(prompt, rank)
                if await _wait(lambda: all(one.messages for one in listeners), _EVENT_SECONDS):
                    break
            self.usage = await self._complete(prompt, rank)
        except ProbeFailed as error:
            self.problem = str(error)
            await _wait(lambda: all(one.messages for one in listeners), _EVENT_SECONDS)

    async def _complete(self, prompt: Sequence[int], rank: int | None) -> _Usage:
        """Raises ProbeFailed if it is not answered as an OpenAI completion."""
        if self._model is None:
            raise ProbeFailed("it serves no model")
        body: dict[str, Any] = {"model": self._model.id, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        headers = {}
        if rank is not None and self._pod.is_sglang:
            body["routed_dp_rank"] = rank
        elif rank is not None:
            headers["X-data-parallel-rank"] = str(rank)
        if self._pod.key:
            headers["Authorization"] = f"Bearer {self._pod.key}"
        url = f"{self._pod.entry.url}/v1/completions"
        try:
            async with self._session.post(url, json=body, headers=headers) as response:
                if response.status != 200:
                    raise ProbeFailed(f"/v1/completions is answered with {response.status}")
                usage = (await response.json())["usage"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            raise ProbeFailed(f"/v1/completions: {error or type(error).__name__}") from None
        details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        return _Usage(cached if isinstance(cached, int) else None)


async def _wait(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds within so many seconds."""
    deadline = monotonic() + seconds
    while not holds():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def _cache_config(metrics: bytes) -> _CacheConfig:
    """The labels of vLLM's `vllm:cache_config_info`; empty for other engines."""
    found = _CONFIG.search(metrics)
    labels = {name.decode(): value.decode() for name, value in _LABEL.findall(found[1])} if found else {}
    size, caching = labels.get("block_size", ""), labels.get("enable_prefix_caching")
    return _CacheConfig(
        int(size) if size.isdecimal() and size != "0" else None,
        caching == "True" if caching in {"True", "False"} else None,
        labels.get("prefix_caching_hash_algo"),
    )
