from __future__ import annotations

from service.index.base import Rank, RankBlocks, Tier
from service.offline.timeline import Series, Timeline, peak_by_series


def holding(count: int) -> list[RankBlocks]:
    return [RankBlocks(Rank("a", "m"), [16], {Tier.GPU: count}), RankBlocks(Rank("a", "m", 1), [16], {Tier.GPU: 1})]


def test_events_count_in_the_span_of_their_time() -> None:
    timeline = Timeline()
    for moment, count in ((100.0, 1), (100.004, 2), (100.1, 4)):
        timeline.advance(moment, holding(0))
        timeline.span.stored += count
    spans = timeline.finish(holding(5))
    assert [span.stored for span in spans] == [3, 4]
    assert spans[-1].held == {Series("a", "gpu"): 6}


def test_the_number_of_spans_is_bounded_and_merging_keeps_all_counts() -> None:
    timeline = Timeline()
    for moment in range(20_000):
        timeline.advance(float(moment), holding(moment % 7))
        timeline.span.stored += 1
        timeline.span.evicted += 2
    spans = timeline.finish(holding(0))
    assert len(spans) <= 480
    assert sum(span.stored for span in spans) == 20_000
    assert sum(span.evicted for span in spans) == 40_000
    assert timeline.width * len(spans) >= 20_000 - timeline.width
    assert peak_by_series(spans)[Series("a", "gpu")] <= 7


def test_time_never_goes_back() -> None:
    timeline = Timeline()
    timeline.advance(50.0, holding(0))
    timeline.advance(10.0, holding(0))
    assert timeline.now == 50.0
    assert len(timeline.finish(holding(0))) == 1
