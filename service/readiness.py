"""Whether requests can be answered, and if not, why."""

from __future__ import annotations

import asyncio
import logging

from service.contract.settings import Settings
from service.events.pool import EventPool
from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.models.catalog import Models

log = logging.getLogger(__name__)


class Readiness:
    """Ready when the default model is loaded and every event socket is up. An engine that is silent is no reason."""

    def __init__(self, settings: Settings, models: Models, pool: EventPool) -> None:
        self._model = settings.model_name
        self._retry_after = settings.hub_retry_after
        self._models = models
        self._pool = pool
        self._model_problem: str | None = f"{self._model} is being loaded"

    def reasons(self) -> list[str]:
        """A sentence for each thing that is missing; none when ready."""
        return [*([self._model_problem] if self._model_problem else []), *self._pool.problems()]

    async def load_default_model(self) -> None:
        """Tries until it is there: files may be mounted, a token accepted or a hub reached later."""
        while (problem := await self._problem()) is not None:
            if problem != self._model_problem:
                log.warning("%s", problem)
            self._model_problem = problem
            await asyncio.sleep(self._retry_after)
        self._model_problem = None
        log.info("%s is loaded", self._model)

    async def _problem(self) -> str | None:
        try:
            await self._models.get(self._model)
        except (ModelNotFound, ModelUnavailable) as error:
            return str(error)
        except Exception as error:
            log.exception("%s could not be loaded", self._model)
            return f"{self._model} could not be loaded: {error}"
        return None
