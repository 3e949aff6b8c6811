"""What the host half relies on in the service's HTTP answers."""

from __future__ import annotations

INSTANCE_HEADER = "Kvcache-Instance"
"""Header of GET /health: INSTANCE_ID of the process that answers."""
