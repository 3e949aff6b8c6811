from __future__ import annotations

from typing import Any

from orchestrator.commands.status import pod_line

PARITY: dict[str, Any] = {"model": "m", "verdict": "equal", "differing": [], "remedy": None, "reason": None}
POD = {"name": "a:1", "healthy": True, "problem": None, "parity": [PARITY]}


def test_a_pod_has_its_health_and_the_parity_of_its_models() -> None:
    assert pod_line(POD) == "a:1: healthy; m: tokens equal"
    differs = {**PARITY, "verdict": "differs", "differing": ["tools", "system"], "remedy": "Set it"}
    assert pod_line({**POD, "parity": [differs]}) == "a:1: healthy; m: tokens differ (tools, system). Set it"
    unknown = {**PARITY, "verdict": "unknown", "reason": "no tokenizer"}
    assert pod_line({**POD, "parity": [unknown]}) == "a:1: healthy; m: tokens not known to be equal (no tokenizer)"


def test_a_pod_that_is_down_has_the_reason() -> None:
    assert pod_line({**POD, "healthy": False, "problem": "refused", "parity": []}) == "a:1: down (refused)"
    assert pod_line({**POD, "healthy": None, "parity": []}) == "a:1: not asked yet"
