"""The tiers of the mediums that engines and connectors name in events."""

from __future__ import annotations

from typing import Any

from service.index.base import Tier

_TIERS = {
    None: Tier.GPU,
    "GPU": Tier.GPU,
    "CPU": Tier.CPU,
    "CPU_PINNED": Tier.CPU,
    "STORAGE": Tier.STORAGE,
    "FS": Tier.STORAGE,
    "OBJ": Tier.STORAGE,
    "DISK": Tier.STORAGE,
    "EXTERNAL": Tier.STORAGE,
}


def tier_of(medium: Any) -> Tier | None:
    """The tier of a medium, in upper or lower case; None if it is unknown."""
    try:
        return _TIERS[medium]
    except (KeyError, TypeError):
        pass
    try:
        return _TIERS.get(medium.upper())
    except AttributeError:
        return None
