"""The lines from `python -m service demonstrate` to `kvcache demo`: one JSON object each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

CACHE_AWARE = "cache-aware"
"""The policy of the gateway."""


@dataclass(frozen=True, slots=True)
class PodTally:
    """Totals of one simulated engine."""

    pod: str
    requests: int
    prompt_tokens: int
    reused_tokens: int
    evictions: int
    blocks_held: int


@dataclass(frozen=True, slots=True)
class PolicyTally:
    """Prompt tokens in total, and reused by a routing policy; times to first token in seconds."""

    policy: str
    prompt_tokens: int
    reused_tokens: int
    first_token_mean: float
    first_token_p50: float
    first_token_p99: float

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that were reused."""
        return self.reused_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """Parameters of the run; `blocks` are the usable blocks per pod; the run ends after `requests` or `seconds`."""

    model: str
    pods: Sequence[str]
    blocks: int
    block_size: int
    seed: int
    requests: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Routed:
    """One request: predicted tokens per pod, its pod, and the tokens that were really reused.

    `first_token` is the time to first token in seconds, by policy.
    """

    number: int
    seconds: float
    conversation: int
    turn: int
    prompt_tokens: int
    predicted: Mapping[str, int]
    held: Mapping[str, int]
    pod: str
    reused: int
    first_token: Mapping[str, float]
    text: str
    cached_characters: int
    differences: Sequence[str]
    pods: Sequence[PodTally]
    policies: Sequence[PolicyTally]


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome; `predictions` counts comparisons: per request, one with each pod and one with the actual reuse."""

    seconds: float
    requests: int
    predictions: int
    differences: Sequence[str]
    pods: Sequence[PodTally]
    policies: Sequence[PolicyTally]
    last_messages: Sequence[Mapping[str, str]]


Line: TypeAlias = Started | Routed | Ended


_KINDS: Mapping[str, type[Line]] = {"begin": Started, "request": Routed, "end": Ended}


def write_line(line: Line) -> str:
    """The line's JSON, without a line end."""
    kind = next(kind for kind, made in _KINDS.items() if isinstance(line, made))
    return json.dumps({"kind": kind, **asdict(line)}, ensure_ascii=False)


def read_line(text: str) -> Line:
    fields: dict[str, Any] = json.loads(text)
    made = _KINDS[fields.pop("kind")]
    if made is not Started:
        fields["pods"] = [PodTally(**pod) for pod in fields["pods"]]
        fields["policies"] = [PolicyTally(**policy) for policy in fields["policies"]]
    return made(**fields)
