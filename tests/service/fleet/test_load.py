from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest
from aiohttp import web

from service.contract.pods import parse_pods
from service.fleet.load import LoadReader, parse_load
from service.fleet.registry import Pod, RankLoad, Registry
from tests.waiting import PATIENCE, until


def test_the_load_of_each_rank_is_read_out_of_metrics() -> None:
    text = b"""# HELP vllm:num_requests_running Number of requests; see vllm:num_requests_waiting 5
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m {x} 9"} 4.0
vllm:num_requests_running_by_reason{engine="0"} 8.0
other_vllm:num_requests_running{engine="0"} 8.0
vllm:num_requests_waiting{engine="1",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1.6e+03
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 400.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.76e+09
vllm:kv_cache_usage_perc{engine="1",model_name="m"} NaN
vllm:other{engine="0"} 9
sglang:num_queue_reqs{dp_rank="2"} 1e0
sglang:cache_hit_rate{dp_rank="2"} 0.5
sglang:token_usage 0.75"""
    assert parse_load(text) == {
        0: RankLoad(running=3.0, cache_usage=0.75, queried_tokens=1600.0, hit_tokens=400.0),
        1: RankLoad(running=4.0, waiting=2.0),
        2: RankLoad(waiting=1.0, hit_rate=0.5),
    }
    assert parse_load(b"") == parse_load(b"vllm:num_requests_running") == {}


class Engine:
    """An engine that answers only /metrics; `times` are those of its answers."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.status = 200

    async def metrics(self, _: web.Request) -> web.Response:
        self.times.append(monotonic())
        return web.Response(text=f'vllm:num_requests_running{{engine="0"}} {len(self.times)}\n', status=self.status)


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, int]]:
    made = Engine()
    app = web.Application()
    app.add_routes([web.get("/{pod}/metrics", made.metrics)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, runner.addresses[0][1]
    await runner.cleanup()


def healthy(registry: Registry, port: int, name: str) -> Pod:
    pod = registry.add(parse_pods(f"http://127.0.0.1:{port}/{name},name={name}")[0])
    pod.healthy = True
    return pod


async def test_the_load_of_several_pods_is_read_again_and_again_but_not_more_than_once_a_second(
    engine: tuple[Engine, int],
) -> None:
    made, port = engine
    registry = Registry()
    pod = healthy(registry, port, "a")
    registry.add(parse_pods("http://127.0.0.1:9,name=not-healthy")[0])
    reader = LoadReader(registry, alone_interval=PATIENCE)
    reader.start()
    await until(lambda: pod.load == {0: RankLoad(running=3.0)})
    assert all(later - earlier > 1.0 for earlier, later in zip(made.times, made.times[1:], strict=False))
    made.status = 500
    await until(lambda: pod.load == {})
    await reader.close()


async def test_the_load_of_a_pod_alone_is_read_seldom(engine: tuple[Engine, int]) -> None:
    _, port = engine
    registry = Registry()
    pod = healthy(registry, port, "a")
    reader = LoadReader(registry, alone_interval=PATIENCE)
    reader.start()
    await until(lambda: pod.load == {0: RankLoad(running=1.0)})
    second = Registry()
    healthy(second, port, "b")
    other = healthy(second, port, "c")
    reader_of_two = LoadReader(second, alone_interval=PATIENCE)
    reader_of_two.start()
    await until(lambda: other.load.get(0, RankLoad()).running > 3)  # time enough for several of the first, too
    assert pod.load == {0: RankLoad(running=1.0)}
    await asyncio.gather(reader.close(), reader_of_two.close())
