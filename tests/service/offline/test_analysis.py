from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.events.recording import Recorded, Recording, recorded_line
from service.offline.analysis import Analysis, analyse
from service.offline.summary import summary
from service.simulation.engine import SimulatedEngine
from service.simulation.publisher import batch_payload


def analysed(lines: list[bytes]) -> Analysis:
    return analyse(Recording(lines), "m", prefixes=3, bytes_per_token=1024)


def batch(moment: float, payload: bytes) -> bytes:
    _, events, rank = msgspec.msgpack.decode(payload)
    return msgspec.msgpack.encode([moment, events, rank])


def recorded(pod: str, sequence: int, moment: float, events: list[dict[str, object]]) -> bytes:
    payload = batch(moment, batch_payload(events))
    return recorded_line(Recorded(pod, f"kv@{pod}@m".encode(), sequence, payload))


@pytest.fixture
def lines() -> list[bytes]:
    """Two engines of eight blocks of four tokens: both serve one prompt, one of them then others and a reset."""
    return list(_two_engines())


def _two_engines() -> Iterator[bytes]:
    first, second = SimulatedEngine(9, 4), SimulatedEngine(9, 4, seed=1)
    for moment, sequence, prompt in ((100.0, 0, range(16)), (101.0, 1, range(50, 66)), (104.0, 2, range(80, 88))):
        (events,) = first.serve(prompt).batches
        yield recorded("a", sequence, moment, events)
    (events,) = second.serve(range(16)).batches
    yield recorded("b", 0, 105.0, events)
    yield recorded("b", 1, 110.0, second.clear())
    (events,) = second.serve(range(12)).batches
    yield recorded("b", 2, 110.0, events)


def test_it_says_what_was_stored_evicted_cleared_and_is_held(lines: list[bytes]) -> None:
    analysis = analysed(lines)
    assert analysis.messages == 6
    assert analysis.seconds == 10
    assert (analysis.stored, analysis.evicted, analysis.cleared, analysis.clears) == (17, 2, 4, 1)
    assert analysis.stored_per_second == 1.7
    assert [(pod.pod, pod.tier, pod.blocks, pod.most_blocks) for pod in analysis.pods] == [
        ("a", "gpu", 8, 8),
        ("b", "gpu", 3, 4),
    ]


def test_it_says_how_long_blocks_lived(lines: list[bytes]) -> None:
    lifetimes = analysed(lines).lifetimes
    assert lifetimes.count == 2  # the two that were evicted by the third prompt; a reset ends no life
    assert lifetimes.mean == pytest.approx(4.0)
    assert lifetimes.quantiles["0.5"] == pytest.approx(4.0, rel=0.11)


def test_it_says_what_pods_share_and_what_the_longest_prefixes_cost(lines: list[bytes]) -> None:
    analysis = analysed(lines)
    # LRU took the last two blocks of the first prompt, so that its first two are held twice.
    assert analysis.blocks_by_number_of_pods == {1: 7, 2: 2}
    longest = analysis.prefixes[0]
    assert (longest.pod, longest.tokens, longest.blocks, longest.own_blocks, longest.pods) == ("a", 16, 4, 4, 1)
    assert longest.bytes == longest.own_bytes == 16 * 1024


def test_gaps_restarts_and_unreadable_messages_are_listed_by_line(lines: list[bytes]) -> None:
    engine = SimulatedEngine(9, 4)
    (anew,) = engine.serve(range(200, 204)).batches
    broken = [
        lines[0],
        lines[2],  # number 1 is missing
        recorded("a", 0, 120.0, anew),
        b"{ torn\n",
        recorded_line(Recorded("a", b"kv@a@m", 1, b"\xc1")),
        lines[3],
        lines[3],
    ]
    analysis = analysed(broken)
    assert analysis.incidents == {"gap": 1, "restart": 1, "unreadable": 1, "repetition": 1}
    assert [(incident.line, incident.pod) for incident in analysis.first_incidents] == [
        (2, "a"),
        (3, "a"),
        (5, "a"),
        (7, "b"),
    ]
    assert (analysis.malformed_lines, analysis.first_malformed_lines) == (1, [4])
    said = "\n".join(summary(analysis))
    assert "malformed lines skipped: 1 (line 4)" in said
    assert "line 3: a: the engine restarted" in said


def test_a_rank_that_lost_batches_and_was_not_rebuilt_is_inexact(lines: list[bytes]) -> None:
    assert analysed([lines[0], lines[2]]).inexact == {"a rank 0": "batches 1 to 1 were lost"}
    assert analysed(lines).inexact == {}


@pytest.mark.parametrize("name", ["a_simple", "c_lora_salt", "f_steps", "g_dp"])
def test_a_summary_is_no_wider_than_80_columns(recordings: Path, name: str) -> None:
    with (recordings / f"{name}.jsonl").open("rb") as lines:
        analysis = analyse(Recording(lines), "m", prefixes=10, bytes_per_token=81_920)
    said = list(summary(analysis))
    assert all(len(line) <= 80 for line in said if "inexact" not in line)
    assert f"{analysis.messages:,} messages" in said[0]


def test_nothing_recorded_is_no_error() -> None:
    analysis = analysed([])
    assert analysis.messages == 0
    assert list(summary(analysis))
