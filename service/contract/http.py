"""Names in HTTP responses that both halves use."""

from __future__ import annotations

INSTANCE_HEADER = "Kvcache-Instance"
"""Header of GET /health: INSTANCE_ID of the process that answers."""
