from __future__ import annotations

from orchestrator.exposition import totals


def test_series_of_one_name_add_up_and_comments_are_passed_over() -> None:
    text = """# HELP kvcache_pod_blocks Blocks
# TYPE kvcache_pod_blocks gauge
kvcache_pod_blocks{pod="a {b} 1",tier="gpu"} 3.0
kvcache_pod_blocks{pod="b"} 4.5
kvcache_index_blocks 1e+06 1700000000
odd one out
not_a_number soon
"""
    assert totals(text) == {"kvcache_pod_blocks": 7.5, "kvcache_index_blocks": 1_000_000}
