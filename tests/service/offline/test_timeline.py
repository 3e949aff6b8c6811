from __future__ import annotations

from service.index.base import Rank, RankBlocks, Tier
from service.offline.timeline import Series, Timeline, highest


def holding(count: int) -> list[RankBlocks]:
    return [RankBlocks(Rank("a", "m"), [16], {Tier.GPU: count}), RankBlocks(Rank("a", "m", 1), [16], {Tier.GPU: 1})]


def test_what_happened_is_found_in_the_span_of_its_time() -> None:
    timeline = Timeline()
    for moment, count in ((100.0, 1), (100.004, 2), (100.1, 4)):
        timeline.move(moment, holding(0))
        timeline.span.stored += count
    spans = timeline.finish(holding(5))
    assert [span.stored for span in spans] == [3, 4]
    assert spans[-1].held == {Series("a", "gpu"): 6}


def test_the_number_of_spans_is_bounded_and_nothing_is_lost_when_they_are_merged() -> None:
    timeline = Timeline()
    for moment in range(20_000):
        timeline.move(float(moment), holding(moment % 7))
        timeline.span.stored += 1
        timeline.span.evicted += 2
    spans = timeline.finish(holding(0))
    assert len(spans) <= 480
    assert sum(span.stored for span in spans) == 20_000
    assert sum(span.evicted for span in spans) == 40_000
    assert timeline.width * len(spans) >= 20_000 - timeline.width
    assert highest(spans)[Series("a", "gpu")] <= 7


def test_time_does_not_go_back() -> None:
    timeline = Timeline()
    timeline.move(50.0, holding(0))
    timeline.move(10.0, holding(0))
    assert timeline.now == 50.0
    assert len(timeline.finish(holding(0))) == 1
