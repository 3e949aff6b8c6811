from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console as Terminal

from orchestrator.commands.demo_view import DemoView
from service.contract.demo_lines import Ended, PodTally, PolicyTally, Routed, Started

PODS = [PodTally(f"10.0.0.{number}:8000", 1234, 5_000_000, 4_000_000, 123_456, 255) for number in range(1, 4)]
POLICIES = [
    PolicyTally(name, 5_000_000, 4_000_000, 0.123456, 0.115, 1.98765)
    for name in ("cache-aware", "round robin", "random")
]
BEGUN = Started("builtin/demo", [pod.pod for pod in PODS], 255, 16, 7, 100_000, None)
REQUEST = Routed(
    99_999,
    86_399.5,
    12_345,
    9,
    12_345,
    {pod.pod: 12_336 for pod in PODS},
    {pod.pod: 12_336 for pod in PODS},
    PODS[1].pod,
    12_336,
    {"cache-aware": 0.123456, "round robin": 13.0, "random": 98.765},
    "What a long text this is, with [brackets] and\nnew lines. " * 200,
    6_000,
    [],
    PODS,
    POLICIES,
)


@pytest.mark.parametrize("cached_characters", [0, 40, 6_000, 11_600])
def test_the_live_view_fits_80_columns_and_24_lines_however_far_the_prompt_is_cached(cached_characters: int) -> None:
    terminal = Terminal(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    view = DemoView(terminal, BEGUN, "podman")
    frame = view.frame(replace(REQUEST, cached_characters=cached_characters))
    lines = terminal.render_lines(frame, terminal.options, pad=False)
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(text) < 24
    assert max(map(len, text)) <= 80
    assert "99999/100000" in text[0]
    assert any(line.startswith("cache-aware") and line.rstrip().endswith("80.0%    123 ms") for line in text)
    assert any("conversation 12345, turn 9 → 10.0.0.2:8000" in line for line in text)


def test_a_difference_is_shown_in_full_and_counted() -> None:
    terminal = Terminal(file=io.StringIO(), width=80)
    difference = "request 3: predicted 64 tokens for 10.0.0.1:8000, whose cache holds 48"
    view = DemoView(terminal, BEGUN, "podman")
    with view.shown():
        view.routed(replace(REQUEST, differences=[difference]))
    view.ended(Ended(1.0, 3, 12, [difference] * 50, PODS, POLICIES, []))
    assert isinstance(terminal.file, io.StringIO)
    written = terminal.file.getvalue()
    assert difference in written
    assert "… and 30 more" in written
    assert "50 DIFFERENCES" in written


def test_the_summary_has_times_to_first_token_beside_hit_rates_in_80_columns() -> None:
    terminal = Terminal(file=io.StringIO(), width=80)
    DemoView(terminal, BEGUN, "podman").ended(Ended(1.0, 3, 12, [], PODS, POLICIES, []))
    assert isinstance(terminal.file, io.StringIO)
    (line,) = [line for line in terminal.file.getvalue().splitlines() if line.startswith("round robin")]
    assert re.split(" {2,}", line.strip())[1:] == [
        *("5,000,000", "4,000,000", "80.0%"),
        *("123 ms", "115 ms", "1,988 ms"),
    ]
    assert len(line.rstrip()) <= 80


def test_a_line_in_a_pipe_has_the_time_to_first_token_through_the_gateway() -> None:
    terminal = Terminal(file=io.StringIO(), width=80)
    DemoView(terminal, BEGUN, "podman").routed(REQUEST)
    assert isinstance(terminal.file, io.StringIO)
    assert terminal.file.getvalue().rstrip().endswith("reused 12336, first token 123 ms")
