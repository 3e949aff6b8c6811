"""Chooses the pod for a request: the best prefix match, then the lowest load."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from service.fleet.registry import Pod


class Match(NamedTuple):
    """The best rank of a pod for a prompt: its score, and the prompt tokens that the engine will reuse."""

    score: float
    rank: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    """Inputs of the choice of a pod. `matches` are by pod name.

    `renderer` is the source of the tokens, `parity` the verdict on them.
    """

    model: str | None = None
    matches: Mapping[str, Match] = field(default_factory=dict)
    renderer: str | None = None
    parity: str | None = None


def choose(
    pods: Iterable[Pod], question: Question, tried: Collection[Pod], max_in_flight: int | None = None
) -> Pod | None:
    """The pod for a request; None if no pod can take it.

    Skips `tried` pods, and pods with `max_in_flight` requests. A pod that asked to retry later is the last choice.
    `weight` divides the load: a pod of weight 2 gets twice the requests.
    """
    candidates = [
        pod
        for pod in pods
        if pod not in tried
        and pod.is_available
        and pod.serves(question.model)
        and (max_in_flight is None or pod.in_flight < max_in_flight)
    ]
    if not candidates:
        return None
    matches = question.matches

    def preference(pod: Pod) -> tuple[bool, float, float]:
        match = matches.get(pod.name)
        return pod.is_busy, -match.score if match else 0.0, pod.in_flight / pod.weight

    return min(candidates, key=preference)
