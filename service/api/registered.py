"""Instances that POST /register names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from service.contract.endpoints import Endpoint

DEFAULT_TENANT: Final = "default"


@dataclass(slots=True)
class Instance:
    """An engine whose events are followed for a tenant: an endpoint per rank."""

    tenant: str
    endpoints: dict[int, Endpoint] = field(default_factory=dict)
