"""The list of GET /pods at one moment, and its changes since an earlier one."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, TypeAlias

import msgspec

from service.api.responses import PodKey, PodList, PodRank, PodUpdate, ServiceFigures

_SECONDS: Final = 1.0
_SHARE: Final = 0.03
"""The largest share of its time that a process spends on states."""
_encoder = msgspec.json.Encoder()
_Key: TypeAlias = tuple[str, str, int]
Look: TypeAlias = Callable[[], Awaitable[tuple[PodList, ServiceFigures]]]


class PodState:
    """All pods at one moment, with the bytes that tell whether they have changed."""

    def __init__(self, listed: PodList, figures: ServiceFigures) -> None:
        self._ranks: dict[_Key, PodRank] = {}
        self._looks: dict[_Key, bytes] = {}
        self._pods = {pod.name: pod for pod in listed.fleet}
        self._looks_of_pods = {pod.name: _encoder.encode(pod) for pod in listed.fleet}
        self._sources = listed.discovery
        self._figures = figures
        for rank in listed.pods:
            key = rank.pod, rank.model, rank.rank
            self._ranks[key] = rank
            age, rank.last_event_age_seconds = rank.last_event_age_seconds, None  # it changes by itself
            self._looks[key] = _encoder.encode(rank)
            rank.last_event_age_seconds = age

    def since(self, known: PodState | None) -> bytes:
        """A PodUpdate as JSON: what has changed since a state that the client knows, or everything."""
        ranks, pods = (known._looks, known._looks_of_pods) if known is not None else ({}, {})
        return _encoder.encode(
            PodUpdate(
                pods=[rank for key, rank in self._ranks.items() if ranks.get(key) != self._looks[key]],
                fleet=[pod for name, pod in self._pods.items() if pods.get(name) != self._looks_of_pods[name]],
                discovery=self._sources,
                gone=[PodKey(*key) for key in ranks if key not in self._ranks],
                gone_from_fleet=[name for name in pods if name not in self._pods],
                service=self._figures,
            )
        )


class PodStates:
    """The latest state, which all clients share. It is made only when one of them waits for it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._latest: weakref.ref[PodState] | None = None
        self._due = 0.0

    async def next(self, look: Look, known: PodState | None) -> PodState:
        """A state that the client does not know yet; waits until it is due. The first one comes at once."""
        loop = asyncio.get_running_loop()
        if known is not None:
            await asyncio.sleep(self._due - loop.time())
        async with self._lock:
            latest = self._latest() if self._latest is not None else None
            if latest is None or latest is known or loop.time() >= self._due:
                listed, figures = await look()
                began = perf_counter()
                latest = PodState(listed, figures)
                self._latest = weakref.ref(latest)
                # The list itself, whose time cannot be told from that of other processes, takes less than this.
                self._due = loop.time() + max(_SECONDS, 2 * (perf_counter() - began) / _SHARE)
            return latest
