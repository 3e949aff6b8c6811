"""Reads the load of engines from their metrics: requests of other clients appear only there.

Source: vLLM 0.33 and SGLang 0.5.23, GET /metrics (Prometheus text).
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from math import isfinite

import aiohttp

from service.fleet.pod_tasks import PodTasks, jittered
from service.fleet.probe import Probe, ProbeFailed
from service.fleet.registry import Pod, RankLoad, Registry

_INTERVAL = 1.2
"""More than a second with all jitter: an answer of /metrics takes an engine milliseconds."""
_ANSWER_SECONDS = 5.0
_RANK = re.compile(rb'(?:engine|dp_rank)="(\d+)"')
_FIELDS = {
    b"vllm:num_requests_running": "running",
    b"vllm:num_requests_waiting": "waiting",
    b"vllm:kv_cache_usage_perc": "cache_usage",
    b"vllm:prefix_cache_queries_total": "queried_tokens",
    b"vllm:prefix_cache_hits_total": "hit_tokens",
    b"sglang:num_running_reqs": "running",
    b"sglang:num_queue_reqs": "waiting",
    b"sglang:token_usage": "cache_usage",
    b"sglang:cache_hit_rate": "hit_rate",
}
_SERIES = re.compile(rb"\n(%b)(\{[^\n]*\})? ([^\n]*)" % b"|".join(map(re.escape, _FIELDS)))


class LoadReader:
    """Keeps `Pod.load` current: about once a second, or once per `alone_interval` seconds while there is one pod."""

    def __init__(self, registry: Registry, alone_interval: float) -> None:
        self._registry = registry
        self._alone_interval = max(alone_interval, _INTERVAL)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        self._tasks = PodTasks(registry, self._follow, timeout, "load")

    def start(self) -> None:
        self._tasks.start()

    async def close(self) -> None:
        await self._tasks.close()

    async def _follow(self, pod: Pod, session: aiohttp.ClientSession) -> None:
        probe = Probe(session)
        while True:
            load: dict[int, RankLoad] = {}
            if pod.healthy:
                with suppress(ProbeFailed):
                    load = parse_load(await probe.metrics(pod))
            pod.load = load
            is_alone = len(self._registry) == 1 and bool(load)
            await asyncio.sleep(jittered(self._alone_interval if is_alone else _INTERVAL))


def parse_load(text: bytes) -> dict[int, RankLoad]:
    """The load of each rank in a Prometheus text; series without a rank label are those of rank 0."""
    found: dict[int, dict[str, float]] = {}
    for name, labels, value in _SERIES.findall(b"\n" + text):
        rank = _RANK.search(labels)
        with suppress(ValueError):
            if isfinite(number := float(value)):
                found.setdefault(int(rank[1]) if rank else 0, {})[_FIELDS[name]] = number
    return {rank: RankLoad(**values) for rank, values in found.items()}
