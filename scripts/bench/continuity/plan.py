"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """`blocks` are in all engines together; times are in seconds."""

    blocks: int
    pods: int
    conversation: int
    """Blocks of each conversation at first."""
    seconds: float
    """Of conversations before and after what happens."""
    down: float
    """Until a replica is started again."""
    outage: float
    """Of the Valkey."""
    interval: float
    """SNAPSHOT_INTERVAL."""
    rate: float
    """Requests per second through the gateways."""
    replicas: tuple[int, ...]
    """Numbers of replicas to compare."""
    seed: int
