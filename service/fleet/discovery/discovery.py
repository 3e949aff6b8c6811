"""Keeps the registry equal to what sources of pods name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from time import monotonic
from typing import NamedTuple

import msgspec

from service.fleet.discovery.base import Found, Present, Source, SourceFailed
from service.fleet.pod_tasks import jittered
from service.fleet.registry import Pod, Registry

logger = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 1.5
"""Seconds before a source that failed is tried again; doubled after each failure."""


class SourceReport(NamedTuple):
    """A source's state; `answered` tells whether it has ever named its pods."""

    source: str
    pods: int
    answered: bool
    failing: bool
    failures: int
    problem: str | None


class _Followed(msgspec.Struct, eq=False):
    """A source, with the pods that it named last: they are kept while it fails."""

    source: Source
    present: Present | None = None
    failure: str | None = None
    failures: int = 0
    conflict: str | None = None
    """A sentence about a pod whose name another pod has."""
    told: str | None = None
    """The problem that was logged last."""

    @property
    def pods(self) -> tuple[Found, ...]:
        return self.present.pods if self.present is not None else ()

    @property
    def problem(self) -> str | None:
        return self.failure or (self.present.problem if self.present is not None else None) or self.conflict


class Discovery:
    """Adds the pods that sources name to the registry, and removes those that no source names any more.

    Pods from elsewhere stay as they are, and a pod of the same name or URL is that pod. A pod that was removed by hand
    comes back when a source names it anew.
    """

    def __init__(self, registry: Registry, sources: Sequence[Source]) -> None:
        self._registry = registry
        self._followed = [_Followed(source) for source in sources]
        self._brought: dict[str, Pod] = {}
        self._tasks: list[asyncio.Task[None]] = []
        registry.expects_pods = registry.expects_pods or bool(sources)

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._follow(followed), name=f"pods of {followed.source.name}")
            for followed in self._followed
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reports(self) -> list[SourceReport]:
        """The state of every source, in the order of their priority."""
        return [
            SourceReport(
                source=one.source.name,
                pods=len(one.pods),
                answered=one.present is not None,
                failing=one.failure is not None,
                failures=one.failures,
                problem=one.problem,
            )
            for one in self._followed
        ]

    def reasons(self) -> list[str]:
        """A sentence for each source that has not answered yet, while there is no pod."""
        if len(self._registry):
            return []
        return [f"{one.source}: {one.problem or 'no answer yet'}" for one in self.reports() if not one.answered]

    async def _follow(self, followed: _Followed) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = monotonic()
            try:
                async with aclosing(followed.source.watch()) as answers:
                    async for present in answers:
                        self._answered(followed, present)
                failure = "it ended"
            except SourceFailed as error:
                failure = str(error)
            except Exception as error:  # one source must not end, whatever it is that was not expected
                logger.exception("%s failed", followed.source.name)
                failure = f"{type(error).__name__}: {error}"
            followed.failure = failure
            followed.failures += 1
            self._tell(followed)
            if monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await asyncio.sleep(jittered(pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _answered(self, followed: _Followed, present: Present) -> None:
        changed = present != followed.present
        followed.present, followed.failure = present, None
        if changed:
            self._reconcile()
        for one in self._followed:
            self._tell(one)

    def _tell(self, followed: _Followed) -> None:
        problem, name = followed.problem, followed.source.name
        if problem is not None and problem != followed.told:
            kept = f"; its last {len(followed.pods)} pods are kept" if followed.failure and followed.present else ""
            logger.warning("%s: %s%s", name, problem, kept)
        elif problem is None and followed.told is not None:
            logger.info("%s is well again: it names %d pods", name, len(followed.pods))
        followed.told = problem

    def _reconcile(self) -> None:
        """Raises SourceFailed if the key file of a pod cannot be read."""
        wanted = self._wanted()
        for name, pod in list(self._brought.items()):
            if name not in wanted or wanted[name][0].entry != pod.entry:
                del self._brought[name]
                if self._registry.get(name) is pod:
                    self._registry.remove(name)
        others = {pod.entry.url for pod in self._registry if self._brought.get(pod.name) is not pod}
        for name, (found, followed) in wanted.items():
            if name not in self._brought and found.entry.url not in others:
                if (known := self._registry.get(name)) is not None:
                    followed.conflict = _conflict(found, known.entry.url)
                    continue
                try:
                    self._brought[name] = self._registry.add(found.entry)
                except OSError as error:
                    followed.present = None
                    raise SourceFailed(f"the key_file of {name} cannot be read: {error}") from None
            if name in self._brought:
                self._brought[name].withheld = found.draining

    def _wanted(self) -> dict[str, tuple[Found, _Followed]]:
        """Each pod once, as the first source names it; it is draining if one of them says so."""
        wanted: dict[str, tuple[Found, _Followed]] = {}
        names: dict[str, str] = {}
        for followed in self._followed:
            followed.conflict = None
            for found in followed.pods:
                name = names.get(found.entry.url, found.entry.name)
                if name not in wanted:
                    wanted[name] = found, followed
                    names[found.entry.url] = name
                elif (first := wanted[name])[0].entry.url != found.entry.url:
                    followed.conflict = _conflict(found, first[0].entry.url)
                elif found.draining:
                    wanted[name] = first[0]._replace(draining=True), first[1]
        return wanted


def _conflict(found: Found, url: str) -> str:
    return f"{found.entry.url} is left out: {url} has the name {found.entry.name}"
