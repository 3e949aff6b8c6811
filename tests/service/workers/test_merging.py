from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Exemplar

from service.workers.cores import number_of_cores
from service.workers.metrics import CounterFile, Family, decode, encode, merged, read_counters
from service.workers.place import Place


def family(name: str, kind: str, *samples: tuple[str, dict[str, str], float]) -> Family:
    return Family(name, "meaning", kind, list(samples))


def value(families: list[Family], name: str, **labels: str) -> float:
    return next(sample[2] for one in families for sample in one.samples if sample[:2] == (name, labels))


def test_counters_of_requests_are_added_and_those_of_events_counted_once() -> None:
    one = [
        family("kvcache_http_requests", "counter", ("kvcache_http_requests_total", {"route": "/score"}, 3)),
        family("kvcache_events_applied", "counter", ("kvcache_events_applied_total", {}, 100)),
        family("kvcache_index_lookup_requests", "counter", ("kvcache_index_lookup_requests_total", {}, 3)),
    ]
    two = [
        family("kvcache_http_requests", "counter", ("kvcache_http_requests_total", {"route": "/pods"}, 1)),
        family("kvcache_events_applied", "counter", ("kvcache_events_applied_total", {}, 90)),
        family("kvcache_index_lookup_requests", "counter", ("kvcache_index_lookup_requests_total", {}, 4)),
    ]
    found = merged([one, two])
    assert value(found, "kvcache_http_requests_total", route="/score") == 3
    assert value(found, "kvcache_http_requests_total", route="/pods") == 1
    assert value(found, "kvcache_events_applied_total") == 100
    assert value(found, "kvcache_index_lookup_requests_total") == 7


def test_a_rank_is_exact_if_it_is_so_for_all_workers_and_requests_in_flight_are_added() -> None:
    workers = [
        [
            family("kvcache_pod_exact", "gauge", ("kvcache_pod_exact", {"pod": "a"}, exact)),
            family("kvcache_http_requests_in_flight", "gauge", ("kvcache_http_requests_in_flight", {}, 2)),
            family("kvcache_index_blocks", "gauge", ("kvcache_index_blocks", {}, blocks)),
        ]
        for exact, blocks in ((1, 10), (0, 12))
    ]
    found = merged(workers)
    assert value(found, "kvcache_pod_exact", pod="a") == 0
    assert value(found, "kvcache_http_requests_in_flight") == 4
    assert value(found, "kvcache_index_blocks") == 12


def test_families_survive_the_way_between_workers() -> None:
    metric = Metric("kvcache_x", "meaning", "counter")
    metric.add_sample("kvcache_x_total", {"a": "b"}, 1)
    assert [one.metric() for one in decode(encode([Family.of(metric)]))] == [metric]


def test_a_worker_goes_on_counting_where_its_predecessor_was(tmp_path: Path) -> None:
    def counted(count: float) -> list[Family]:
        return [
            family("kvcache_http_requests", "counter", ("kvcache_http_requests_total", {}, count)),
            family("kvcache_index_blocks", "gauge", ("kvcache_index_blocks", {}, 7)),
        ]

    first = CounterFile(tmp_path / "counters-0")
    first.with_predecessors(counted(2))
    first.with_predecessors(counted(5))
    second = CounterFile(tmp_path / "counters-0")
    assert value(second.with_predecessors(counted(1)), "kvcache_http_requests_total") == 6
    assert value(second.with_predecessors(counted(2)), "kvcache_http_requests_total") == 7
    kept = read_counters(tmp_path / "counters-0")
    assert value(kept, "kvcache_http_requests_total") == 7
    assert [one.kind for one in kept] == ["counter"]
    assert read_counters(tmp_path / "none") == []


def test_a_place_is_read_as_it_was_written(tmp_path: Path) -> None:
    place = Place(1, 4, 9, 8080, tmp_path)
    assert Place.of({"KVCACHE_WORKER": str(place)}) == place
    assert Place.of({}) is None


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_limit_of_a_container_limits_the_workers(tmp_path: Path, text: str, cores: int | None) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text(text)
    without = number_of_cores(tmp_path / "none")
    assert number_of_cores(limit) == (without if cores is None else min(cores, without))


def test_the_latest_exemplar_of_a_bucket_is_kept() -> None:
    def worker(trace: str, at: float) -> list[Family]:
        histogram = HistogramMetricFamily("kvcache_http_request_seconds", "meaning", labels=["route"])
        seen = Exemplar({"trace_id": trace}, 0.2, at)
        histogram.add_metric(["/a"], [("0.5", 1.0, seen), ("+Inf", 1.0)], 0.2)
        return decode(encode([Family.of(histogram)]))

    (found,) = merged([worker("old", 1.0), worker("new", 3.0), worker("older", 0.5)])
    exemplars = [sample.exemplar for sample in found.metric().samples if sample.exemplar is not None]
    assert exemplars == [Exemplar({"trace_id": "new"}, 0.2, 3.0)]
    assert value([found], "kvcache_http_request_seconds_bucket", route="/a", le="0.5") == 3
