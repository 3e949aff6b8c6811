from __future__ import annotations

from typing import Any

from orchestrator.commands.status import endpoint_line, pod_line, source_line

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


def test_a_pod_has_its_load_and_what_keeps_requests_from_it() -> None:
    busy = {**POD, "parity": [], "in_flight": 3, "running": 4.0, "waiting": 1.0, "weight": 2.0, "breaker": "closed"}
    assert pod_line(busy) == "a:1: healthy; weight 2; 3 in flight; 4 running, 1 waiting"
    broken = {**POD, "parity": [], "draining": True, "breaker": "half_open", "problem": "the engine closed it"}
    assert pod_line(broken) == "a:1: healthy; draining; circuit breaker half open (the engine closed it)"


def test_a_source_of_pods_has_their_number_and_what_is_wrong_with_it() -> None:
    source = {"source": "dns:a:8000", "pods": 1, "failing": False, "problem": None}
    assert source_line(source) == "dns:a:8000: 1 pod"
    assert source_line({**source, "pods": 2, "problem": "b has no port"}) == "dns:a:8000: 2 pods (b has no port)"
    failing = source_line({**source, "failing": True, "problem": "no server answers"})
    assert failing == "dns:a:8000: fails (no server answers); keeps 1 pod"


def test_a_source_of_events_has_its_state_and_the_remedy() -> None:
    endpoint = {"address": "tcp://a:1", "state": "heard", "messages": 3, "problem": None}
    assert endpoint_line(endpoint) == "tcp://a:1: heard, 3 messages"
    refused = {**endpoint, "state": "refused", "messages": 0, "problem": "tcp://a:1: nobody is there; start it"}
    assert endpoint_line(refused) == "tcp://a:1: refused, 0 messages; nobody is there; start it"
