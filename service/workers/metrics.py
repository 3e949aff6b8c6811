"""One /metrics of several workers: their families of series, merged.

Counters and histograms are added up, except those of events and of the index, which every worker counts alike: of these
the largest counts. Gauges of requests are added up; of the others the largest counts, or the least where 1 is the good
value. No counter falls when a worker is started again: it goes on from what its predecessor has told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from prometheus_client import Metric

_ALIKE: Final = ("kvcache_events_", "kvcache_endpoint_messages", "kvcache_index_")
_OF_REQUESTS: Final = "kvcache_index_lookup_"
_ADDED_GAUGES: Final = frozenset(
    {
        "kvcache_http_requests_in_flight",
        "kvcache_http_requests_admitted",
        "kvcache_http_bytes_in_flight",
        "kvcache_pod_requests_in_flight",
        "kvcache_gateway_queued_requests",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    }
)
_LEAST_GAUGES: Final = frozenset(
    {
        "kvcache_pod_exact",
        "kvcache_pod_connected",
        "kvcache_pod_available",
        "kvcache_shared_state_up",
        "kvcache_discovery_up",
        "process_start_time_seconds",
    }
)
_ONLY_GROW: Final = ("counter", "histogram")


_Exemplar: TypeAlias = tuple[dict[str, str], float, float]
_Key: TypeAlias = tuple[str, frozenset[tuple[str, str]]]


def _key(name: str, labels: Mapping[str, str]) -> _Key:
    return name, frozenset(labels.items())


class Family(msgspec.Struct, array_like=True):
    """The series of one name. A sample has a name, labels and a value; its exemplar labels, a value and a time."""

    name: str
    meaning: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]
    exemplars: list[tuple[str, dict[str, str], _Exemplar]] = []

    @classmethod
    def of(cls, metric: Metric) -> Family:
        samples = [(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples]
        exemplars = [
            (sample.name, dict(sample.labels), (found.labels, float(found.value), float(found.timestamp or 0)))
            for sample in metric.samples
            if (found := sample.exemplar) is not None
        ]
        return cls(metric.name, metric.documentation, metric.type, samples, exemplars)

    def metric(self) -> Metric:
        from prometheus_client import Metric  # noqa: PLC0415 - a worker starts without it
        from prometheus_client.samples import Exemplar, Sample  # noqa: PLC0415

        metric = Metric(self.name, self.meaning, self.kind)
        exemplars = {_key(name, labels): Exemplar(*exemplar) for name, labels, exemplar in self.exemplars}
        metric.samples = [
            Sample(name, labels, value, None, exemplars.get(_key(name, labels)) if exemplars else None)
            for name, labels, value in self.samples
        ]
        return metric


_decoder = msgspec.msgpack.Decoder(list[Family])


def encode(families: list[Family]) -> bytes:
    return msgspec.msgpack.encode(families)


def decode(text: bytes) -> list[Family]:
    """Raises msgspec.MsgspecError."""
    return _decoder.decode(text)


def merged(workers: Iterable[list[Family]]) -> list[Family]:
    """The families of all workers as one, each series once."""
    found: dict[str, Family] = {}
    series: dict[_Key, tuple[dict[str, str], float]] = {}
    of_family: dict[str, dict[_Key, None]] = {}
    exemplars: dict[str, dict[_Key, tuple[dict[str, str], _Exemplar]]] = {}
    for families in workers:
        for family in families:
            found.setdefault(family.name, family)
            merge, keys = _rule(family), of_family.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = _key(name, labels)
                known = series.get(key)
                series[key] = labels, value if known is None else merge(known[1], value)
                keys[key] = None
            latest = exemplars.setdefault(family.name, {})
            for name, labels, exemplar in family.exemplars:
                key = _key(name, labels)
                if key not in latest or latest[key][1][2] < exemplar[2]:
                    latest[key] = labels, exemplar
    return [
        Family(
            name,
            family.meaning,
            family.kind,
            [(key[0], *series[key]) for key in of_family[name]],
            [(key[0], *exemplar) for key, exemplar in exemplars[name].items()],
        )
        for name, family in found.items()
    ]


def _rule(family: Family) -> Callable[[float, float], float]:
    if family.name in _LEAST_GAUGES:
        return min
    if family.kind not in _ONLY_GROW:
        return _add if family.name in _ADDED_GAUGES else max
    is_alike = family.name.startswith(_ALIKE) and not family.name.startswith(_OF_REQUESTS)
    return max if is_alike else _add


def _add(first: float, second: float) -> float:
    return first + second


class CounterFile:
    """A file with the counters that the workers of one number have reported: it outlives each of them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = read_counters(file)

    def with_predecessors(self, families: list[Family]) -> list[Family]:
        """The families with what predecessors had counted; keeps them for a successor."""
        found = merged([families, self._before]) if self._before else families
        written = self._file.with_suffix(".new")
        written.write_bytes(encode([family for family in found if family.kind in _ONLY_GROW]))
        written.replace(self._file)
        return found


def read_counters(file: Path) -> list[Family]:
    """The counters that a worker has told last; none if it has not told any."""
    try:
        return decode(file.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return []
