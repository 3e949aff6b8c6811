"""What `python -m service simulate` writes, a JSON object per line, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class PodTally:
    """What a simulated engine did so far."""

    pod: str
    requests: int
    prompt_tokens: int
    reused_tokens: int
    evictions: int
    blocks_held: int


@dataclass(frozen=True, slots=True)
class PolicyTally:
    """How much of all prompts a way of routing has reused so far."""

    policy: str
    prompt_tokens: int
    reused_tokens: int

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that were not computed anew."""
        return self.reused_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Begun:
    """What is played; `requests` or `seconds` is where it ends."""

    model: str
    pods: Sequence[str]
    blocks: int
    block_size: int
    seed: int
    requests: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Routed:
    """One request: what was predicted for each pod, where it went, and what was really reused, in tokens."""

    number: int
    seconds: float
    conversation: int
    turn: int
    prompt_tokens: int
    predicted: Mapping[str, int]
    held: Mapping[str, int]
    pod: str
    reused: int
    text: str
    cached_characters: int
    differences: Sequence[str]
    pods: Sequence[PodTally]
    policies: Sequence[PolicyTally]


@dataclass(frozen=True, slots=True)
class Ended:
    """How it came out."""

    seconds: float
    requests: int
    predictions: int
    differences: Sequence[str]
    pods: Sequence[PodTally]
    policies: Sequence[PolicyTally]
    last_messages: Sequence[Mapping[str, str]]


Line: TypeAlias = Begun | Routed | Ended


def read_line(text: str) -> Line:
    """Reads one line."""
    fields: dict[str, Any] = json.loads(text)
    kind = fields.pop("kind")
    if kind == "begin":
        return Begun(**fields)
    fields["pods"] = [PodTally(**pod) for pod in fields["pods"]]
    fields["policies"] = [PolicyTally(**policy) for policy in fields["policies"]]
    return Routed(**fields) if kind == "request" else Ended(**fields)
