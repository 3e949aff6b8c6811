"""Tells whether requests can be answered, and the reasons if not."""

from __future__ import annotations

import asyncio
import logging

from service.events.pool import EventPool
from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.models.catalog import Models

logger = logging.getLogger(__name__)


class Readiness:
    """Ready when the default model is loaded and every event socket is open. A silent engine is not a reason."""

    def __init__(self, model_name: str, retry_after: float, models: Models, pool: EventPool) -> None:
        """`retry_after` is the number of seconds between two attempts to load the model."""
        self._model = model_name
        self._retry_after = retry_after
        self._models = models
        self._pool = pool
        self._model_problem: str | None = f"{model_name} is being loaded"

    def reasons(self) -> list[str]:
        """A sentence for each thing that is missing; none when ready."""
        return [*([self._model_problem] if self._model_problem else []), *self._pool.problems()]

    async def load_default_model(self) -> None:
        """Retries until the model is loaded: its files may be mounted, or the hub be reachable, later."""
        while (problem := await self._load()) is not None:
            if problem != self._model_problem:
                logger.warning("%s", problem)
            self._model_problem = problem
            await asyncio.sleep(self._retry_after)
        self._model_problem = None
        logger.info("%s is loaded", self._model)

    async def _load(self) -> str | None:
        """Gives the problem, or None when the model is loaded."""
        try:
            await self._models.get(self._model)
        except (ModelNotFound, ModelUnavailable) as error:
            return str(error)
        except Exception as error:
            logger.exception("%s could not be loaded", self._model)
            return f"{self._model} could not be loaded: {error}"
        return None
