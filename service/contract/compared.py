"""The output of `python -m service parity --json`, which `kvcache doctor` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Compared:
    """Whether our tokens for one model equal those of an engine: `verdict` is equal, differs or unknown.

    `request` is the first one that differs, from token `position` on; `here` and `engine` are the texts there.
    """

    model: str
    verdict: str
    root: str | None = None
    renderer: str | None = None
    compared: int = 0
    differing: Sequence[str] = ()
    request: str | None = None
    position: int | None = None
    here: str | None = None
    engine: str | None = None
    reason: str | None = None
    remedy: str | None = None


def write_compared(url: str, version: str | None, models: Iterable[Compared]) -> str:
    """The JSON of all models of an engine."""
    return json.dumps({"url": url, "version": version, "models": [asdict(model) for model in models]}, indent=2)


def read_compared(text: str) -> list[Compared]:
    """Raises ValueError for another text."""
    try:
        return [Compared(**model) for model in json.loads(text)["models"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the output of `parity --json`: {error}") from None
