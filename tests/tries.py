"""How much of what is random tests try: a moderate part, or all where KVCACHE_THOROUGH is set, as in one run of CI."""

from __future__ import annotations

import os

import pytest

THOROUGH = bool(os.environ.get("KVCACHE_THOROUGH"))


def tries(usual: int, thorough: int) -> int:
    return thorough if THOROUGH else usual


only_thorough = pytest.mark.skipif(not THOROUGH, reason="takes long, so it runs with KVCACHE_THOROUGH")
