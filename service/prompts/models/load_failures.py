"""Failed loads of models, which are not tried again for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from service.prompts.errors import HubUnreachable, ModelNotFound, ModelUnavailable

_MAX_FAILURES: Final = 1000


class LoadFailures:
    """The recent failures, by model; one of the hub itself holds for all models."""

    def __init__(self, retry_after: float, clock: Callable[[], float]) -> None:
        """`retry_after` is in seconds, as `clock` is."""
        self._retry_after = retry_after
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, ModelNotFound | ModelUnavailable]] = OrderedDict()
        self._hub: tuple[float, HubUnreachable] | None = None

    def add(self, name: str, error: ModelNotFound | ModelUnavailable) -> None:
        """Remembers a failure of one model."""
        self._failures[name] = (self._clock() + self._retry_after, error)
        while len(self._failures) > _MAX_FAILURES:
            self._failures.popitem(last=False)

    def add_hub(self, error: HubUnreachable) -> None:
        """Remembers that the hub could not be reached."""
        self._hub = (self._clock() + self._retry_after, error)

    def check(self, name: str) -> None:
        """Raises the error of a model that failed a moment ago."""
        if name in self._failures:
            until, error = self._failures[name]
            if self._clock() < until:
                raise error.with_traceback(None)
            del self._failures[name]

    def check_hub(self, name: str) -> None:
        """Raises ModelUnavailable if the hub could not be reached a moment ago."""
        if self._hub is not None and self._clock() < self._hub[0]:
            raise self._hub[1].for_model(name)
