"""A client of the service's HTTP API: cache hits of a prompt per pod, the fleet, and the progress of events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

import aiohttp

_ANSWER_SECONDS = 30.0
_APPLY_SECONDS = 20.0
_POLL_SECONDS = 0.002


class ServiceError(Exception):
    """The service did not answer, or answered with an error; the text says which."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The service's answer for one prompt: its number of tokens, and the number of them in each pod's cache."""

    prompt_tokens: int
    text: str
    matched_tokens: Mapping[str, int]
    matched_characters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PodReport:
    """The state of a pod in the service, summed over its ranks."""

    last_sequence: int | None
    blocks: int
    inexact_reason: str | None


class ServiceClient:
    """An asynchronous context manager; its methods raise ServiceError."""

    def __init__(self, url: str, model: str) -> None:
        self._model = model
        self._url = url
        self._session = aiohttp.ClientSession(
            url, timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS), raise_for_status=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def predict(self, messages: Sequence[Mapping[str, Any]]) -> Prediction:
        """The number of tokens of a chat in each pod's cache."""
        answer = await self._answer("POST", "/explain", {"model": self._model, "messages": list(messages)})
        matches = answer["matches"]
        return Prediction(
            prompt_tokens=answer["tokens"],
            text=answer["text"],
            matched_tokens={match["pod"]: match["matched_tokens"] for match in matches},
            matched_characters={match["pod"]: match["matched_characters"] for match in matches},
        )

    async def pods(self) -> dict[str, PodReport]:
        return {
            pod["pod"]: PodReport(pod["last_sequence"], sum(pod["blocks"].values()), pod["inexact_reason"])
            for pod in (await self._answer("GET", "/pods"))["pods"]
        }

    async def add_pod(self, name: str, url: str) -> None:
        """Adds a pod to the fleet, in place of one with that name, and waits until it can take requests."""
        await self.remove_pod(name)
        await self._answer("POST", "/pods", {"url": url, "name": name})
        deadline = monotonic() + _APPLY_SECONDS
        while not await self._takes_requests(name):
            if monotonic() > deadline:
                raise ServiceError(f"the service does not use {name} at {url} within {_APPLY_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def remove_pod(self, name: str) -> None:
        """Removes a pod if the fleet has it."""
        await self._answer("DELETE", f"/pods/{name}", absent_is_fine=True)

    async def _takes_requests(self, name: str) -> bool:
        fleet = (await self._answer("GET", "/pods"))["fleet"]
        pod = next(pod for pod in fleet if pod["name"] == name)
        return bool(pod["healthy"] and any(one["model"] == self._model for one in pod["parity"]))

    async def applied(self, pod: str, sequence: int | None) -> None:
        """Waits until the service has applied the pod's batch `sequence`; returns at once for None."""
        deadline = monotonic() + _APPLY_SECONDS
        while sequence is not None:
            report = (await self.pods()).get(pod)
            if report and report.last_sequence is not None and report.last_sequence >= sequence:
                return
            if monotonic() > deadline:
                raise ServiceError(f"batch {sequence} of {pod} was not applied within {_APPLY_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def _answer(self, method: str, path: str, body: object = None, *, absent_is_fine: bool = False) -> Any:
        try:
            async with self._session.request(method, path, json=body) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceError(f"{method} {self._url}{path}: {error or type(error).__name__}") from error
        if not response.ok and not (absent_is_fine and response.status == 404):
            raise ServiceError(f"{method} {self._url}{path}: {response.status} {answer['error']['message']}")
        return answer
