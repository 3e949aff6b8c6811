"""The time for which a service that stops takes new connections: until a balancer in front sends them elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

_QUIET_SECONDS: Final = 0.25
"""No connection came for so long: the next ones go elsewhere."""
_QUIET_SHARE: Final = 0.25
"""The share of the time that goes by at most until then."""


async def until_quiet(last_connection: Callable[[], float], seconds: float) -> None:
    """Returns when the last connection, a time of `monotonic`, is long ago, and at most after a share of `seconds`."""
    ends = monotonic() + seconds * _QUIET_SHARE
    while True:
        left = min(last_connection() + _QUIET_SECONDS, ends) - monotonic()
        if left <= 0:
            return
        await asyncio.sleep(left)
