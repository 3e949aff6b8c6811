"""The contract of a source of pods."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from service.contract.pods import PodEntry


class Found(NamedTuple):
    """A pod that a source names. One that is not ready, or about to end, is `draining`: it gets no new requests."""

    entry: PodEntry
    draining: bool = False


class Present(NamedTuple):
    """All pods that a source names at a time; `problem` is a sentence about those that cannot be used."""

    pods: tuple[Found, ...]
    problem: str | None = None


class SourceFailed(Exception):
    """The source cannot tell which pods there are; the text says why."""


class Source(Protocol):
    """Names pods. `name` is the source as the operator writes it."""

    @property
    def name(self) -> str: ...

    def watch(self) -> AsyncGenerator[Present, None]:
        """Yields all present pods at once, and again when something may have changed.

        Raises SourceFailed when the source cannot tell; it is then called again, after a pause.
        """
        ...
