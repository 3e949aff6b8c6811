from __future__ import annotations

from typing import Any

import msgspec

from service.api.merged_pods import merged_pods
from service.api.responses import PodList

RANK = {
    "pod": "a",
    "model": "m",
    "rank": 0,
    "endpoint": "tcp://a:5557",
    "connected": True,
    "exact": True,
    "inexact_reason": None,
    "claimants": [],
    "last_sequence": 4,
    "last_event_age_seconds": 1.0,
    "block_sizes": [16],
    "blocks": {"gpu": 3},
    "unsupported_groups": [],
    "not_understood": [],
}
POD = {
    "name": "a",
    "url": "http://a",
    "healthy": True,
    "problem": None,
    "breaker": "closed",
    "draining": False,
    "weight": 1.0,
    "in_flight": 2,
    "models": ["m"],
    "ranks": 1,
    "version": None,
    "running": None,
    "waiting": None,
    "cache_usage": None,
    "cache_hit_rate": None,
    "parity": [],
    "reuse": "equal",
    "routed": {},
}


def listed(rank: dict[str, Any], pod: dict[str, Any]) -> PodList:
    return msgspec.convert({"pods": [{**RANK, **rank}], "fleet": [{**POD, **pod}], "discovery": []}, PodList)


def test_routed_tokens_are_added_and_the_largest_lag_is_shown() -> None:
    one = listed({"lag_seconds": None}, {"routed": {"requests": 1, "prompt": 100, "captured": 60, "delivered": 50}})
    two = listed({"lag_seconds": 0.5}, {"routed": {"requests": 2, "prompt": 50, "captured": 10, "delivered": 10}})
    three = listed({"lag_seconds": 0.2}, {})
    found = merged_pods(one, [two, three])
    routed = found.fleet[0].routed
    assert (routed.requests, routed.prompt, routed.captured, routed.delivered) == (3, 150, 70, 60)
    assert found.pods[0].lag_seconds == 0.5


def test_a_rank_is_inexact_and_a_pod_has_a_problem_if_it_is_so_for_one_worker() -> None:
    one = listed({}, {})
    two = listed({"exact": False, "inexact_reason": "a gap"}, {"healthy": False, "problem": "down"})
    found = merged_pods(one, [two])
    assert (found.pods[0].exact, found.pods[0].inexact_reason) == (False, "a gap")
    assert (found.fleet[0].healthy, found.fleet[0].problem) == (False, "down")
