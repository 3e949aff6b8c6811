"""The place of a worker among those of its machine: what its supervisor tells it at its start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

VARIABLE: Final = "KVCACHE_WORKER"
"""The variable with the place of a worker; only a supervisor sets it."""
HUB: Final = "hub"
RELAY: Final = "relay"


class Place(NamedTuple):
    """Worker `number` (from 0) of so many, with the descriptor of the socket to its supervisor.

    `folder` holds the Unix sockets between the workers; `port` is the one that they listen on together.
    """

    number: int
    workers: int
    channel: int
    port: int
    folder: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place | None:
        """The place that a supervisor gave this process; None if no supervisor started it."""
        if (text := environment.get(VARIABLE)) is None:
            return None
        number, workers, channel, port, folder = json.loads(text)
        return cls(number, workers, channel, port, Path(folder))

    def __str__(self) -> str:
        """The text that `of` reads."""
        return json.dumps([*self[:-1], str(self.folder)])

    @property
    def hub(self) -> Path:
        """The Unix socket of what the workers share."""
        return self.folder / HUB

    @property
    def relay(self) -> Path:
        """The Unix socket of the endpoints that the supervisor binds."""
        return self.folder / RELAY

    @property
    def others(self) -> list[int]:
        """The numbers of the other workers."""
        return [number for number in range(self.workers) if number != self.number]

    def socket_of(self, number: int) -> Path:
        """Where a worker answers its siblings."""
        return self.folder / f"worker-{number}"
