"""Tells whether requests can be answered, with the reasons if not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from service.events.pool import EventPool
from service.events.stream_states import REASONS, Replay
from service.fleet.registry import Registry
from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.models.catalog import Models

logger = logging.getLogger(__name__)

_REPLAYING: Final = REASONS[Replay.CATCHING_UP]


class Readiness:
    """Ready when the default model is loaded, every event socket is open, and a pod can take requests.

    An index that is being loaded is a reason. The default model is not needed if pods list their models, and it is none
    of them. An engine without events is a reason only with `needs_events`; a fleet that never had pods, and expects
    none, is not a reason.
    """

    def __init__(
        self,
        model_name: str,
        retry_after: float,
        models: Models,
        pool: EventPool,
        fleet: Registry,
        *,
        needs_events: bool = False,
        replay_timeout: float = 0.0,
        loading: Callable[[], list[str]] = list,
    ) -> None:
        """`retry_after` is the number of seconds between two attempts to load the model.

        `replay_timeout`, in seconds from now, is the maximum wait for first replays. `loading` gives reasons while the
        index is being filled from a snapshot.
        """
        self._loading = loading
        self._replays_until = monotonic() + replay_timeout
        self._needs_events = needs_events
        self._model = model_name
        self._retry_after = retry_after
        self._models = models
        self._pool = pool
        self._fleet = fleet
        self._model_problem: str | None = f"{model_name} is being loaded"

    def reasons(self) -> list[str]:
        """One sentence for each missing condition; empty when ready."""
        silent = self._pool.silent() if self._needs_events else self._pool.problems()
        model_problem = [self._model_problem] if self._model_problem and self._needs_model() else []
        problems = [*model_problem, *silent, *self._loading(), *self._replays()]
        if self._fleet.receives_requests and not any(pod.healthy and pod.is_available for pod in self._fleet):
            problems.append("no pod can take requests")
        return problems

    def _needs_model(self) -> bool:
        """Whether requests are rendered for the default model; not known while all pods are silent."""
        if self._fleet.models():
            return self._fleet.serves(self._model)
        return not len(self._fleet) or any(pod.healthy for pod in self._fleet)

    def _replays(self) -> list[str]:
        """A sentence while first replays are in flight: a restarted service does not answer from old history.

        They begin when the pods have told where their events are, and the events are connected.
        """
        if monotonic() > self._replays_until:
            return []
        silent = sum(pod.healthy is None for pod in self._fleet)
        silent += self._pool.unasked(source for pod in self._fleet if pod.healthy for source in pod.sources)
        if silent:
            return [f"{silent} pods have not told yet what they hold (READY_REPLAY_TIMEOUT)"]
        replaying = sum(stream.inexact_reason == _REPLAYING for stream in self._pool.streams())
        if not replaying:
            return []
        return [f"{replaying} ranks are being replayed (READY_REPLAY_TIMEOUT)"]

    async def load_default_model(self) -> None:
        """Retries until the model is loaded: its files may be mounted later, or the hub be unreachable at first."""
        while (problem := await self._load()) is not None:
            if problem != self._model_problem:
                # With pods it is told by `reasons` if it matters, which is not known before they have answered.
                logger.log(logging.INFO if len(self._fleet) else logging.WARNING, "%s", problem)
            self._model_problem = problem
            await asyncio.sleep(self._retry_after)
        self._model_problem = None
        logger.info("%s is loaded", self._model)

    async def _load(self) -> str | None:
        """Returns the problem, or None when the model is loaded."""
        try:
            await self._models.get(self._model)
        except (ModelNotFound, ModelUnavailable) as error:
            return str(error)
        except Exception as error:
            logger.exception("%s could not be loaded", self._model)
            return f"{self._model} could not be loaded: {error}"
        return None
