"""The lines from `python -m service examine` to `kvcache doctor`: one JSON object per pod."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from service.contract.listening import Heard


@dataclass(frozen=True, slots=True)
class Examined:
    """An engine's own answers, and its behaviour under requests. With `problem`, its HTTP server could not be asked."""

    pod: str
    url: str
    problem: str | None = None
    engine: str | None = None
    """vllm or sglang; None for an engine that does not say."""
    version: str | None = None
    models: Sequence[str] = ()
    """Names in requests, the base models first."""
    root: str | None = None
    """The name or path that its first model was loaded from."""
    tells_sources: bool = False
    """Whether it says where its events are, or that it publishes none."""
    sources: Sequence[Heard] = ()
    """Its event sockets, as told by it or by the operator, while it got requests."""
    unanswered: str | None = None
    """Why it got no request, or answered none."""
    tells_reuse: bool | None = None
    """Whether its usage has the number of reused tokens; None without an answer."""
    reused_tokens: int = 0
    """Of a prompt that it had just computed."""
    block_size: int | None = None
    prefix_caching: bool | None = None
    """From its /metrics; None if they lack it."""
    hash_algorithm: str | None = None


def write_examined(examined: Examined) -> str:
    """The line's JSON, without a line end."""
    return json.dumps(asdict(examined))


def read_examined(text: str) -> Examined:
    found = Examined(**json.loads(text))
    return replace(found, sources=[Heard(**heard) for heard in json.loads(text)["sources"]])
