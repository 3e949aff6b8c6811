from __future__ import annotations

import json
import re

import pytest

from tests.command import Commands
from tests.orchestrator.invoked import Invoker
from tests.tries import only_thorough

DEMO = ("demo", "--runtime", "process")


def test_in_a_pipe_it_ends_with_cache_aware_routing_ahead_no_difference_and_nothing_left(kvcache: Commands) -> None:
    done = kvcache.run(*DEMO, "--requests", "120", "--seed", "3")
    assert done.code == 0, done.output
    rates = {
        policy: float(rate)
        for policy, rate in re.findall(
            r"^(cache-aware|round robin|random) .* ([\d.]+)% +\d+ ms +\d+ ms +\d+ ms *$", done.output, re.MULTILINE
        )
    }
    assert rates["cache-aware"] > 1.2 * max(rates["round robin"], rates["random"])
    assert "480 predictions held against what the engines did: no difference" in done.output
    assert "Process removed successfully" in done.output
    lines = re.findall(
        r"^(\d+): conversation \d+ turn \d+, .*, predicted \d+, reused \d+, first token \d+ ms$",
        done.output,
        re.MULTILINE,
    )
    assert lines == [str(number) for number in range(1, 121)]
    assert "\x1b" not in done.output
    assert "\r" not in done.output
    assert not any(kvcache.state.glob("process/*"))


def test_json_is_one_object_with_all_that_the_summary_says(kvcache: Commands) -> None:
    done = kvcache.run(*DEMO, "--requests", "20", "--pods", "2", "--blocks", "300", "--json")
    document = json.loads(done.output)
    assert done.code == 0
    assert document["differences"] == []
    assert document["predictions"] == 20 * 3
    assert [pod["pod"] for pod in document["pods"]] == ["engine-1", "engine-2"]
    assert [tally["policy"] for tally in document["policies"]] == ["cache-aware", "round robin", "random"]
    assert document["policies"][0]["hit_rate"] > document["policies"][1]["hit_rate"]
    assert len({tally["prompt_tokens"] for tally in document["policies"]}) == 1
    for tally in document["policies"]:
        assert 0 < tally["first_token_p50"] <= tally["first_token_p99"]
        assert 0 < tally["first_token_mean"] <= tally["first_token_p99"]


def test_ctrl_c_takes_all_down(kvcache: Commands) -> None:
    command = kvcache.start(*DEMO, "--requests", "10000", "--rate", "20")
    command.wait_for("\n3: conversation")
    command.interrupt()
    done = command.finish()
    assert done.code == 130
    assert "Received shutdown signal" in done.output
    assert not any(kvcache.state.glob("process/*"))


@only_thorough
def test_kept_it_can_be_asked_and_watched_until_ctrl_c(kvcache: Commands) -> None:
    command = kvcache.start(*DEMO, "--requests", "60", "--keep")
    command.wait_for("Press Ctrl+C to stop")
    (chat,) = re.findall(r"kvcache score --name kvcache-demo --chat (\S+)", command.output)
    (url,) = set(re.findall(r"curl -s (http://\S+)/pods", command.output))

    answer = json.loads(kvcache.run("score", "--url", url, "--chat", chat, "--json").output)
    best = answer["matches"][0]
    assert best["matched_tokens"] > 0.9 * answer["tokens"]
    shown = kvcache.run("score", "--name", "kvcache-demo", "--runtime", "process", "--chat", chat).output
    assert re.search(rf"^{re.escape(best['pod'])} +━+.* {best['matched_tokens']:,} ", shown, re.MULTILINE)
    assert len(re.findall(r"^engine-\d", shown, re.MULTILINE)) == 3

    seen = kvcache.run("top", "--url", url, "--interval", "0.1").output
    assert len(re.findall(r"^engine-\d .* exact", seen, re.MULTILINE)) == 3
    view = json.loads(kvcache.run("top", "--url", url, "--interval", "0.1", "--json").output)
    assert view["hit_rate"] > 0.5
    assert view["blocks"] == sum(rank["gpu"] for rank in view["ranks"])

    command.interrupt()
    assert command.finish().code == 0
    assert not any(kvcache.state.glob("process/*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--blocks", "20"), "give the engines more (--blocks)"),
        (("--duration", "soon"), "--duration: 'soon' must be a time above zero"),
        (("--pods", "0"), "0 is not in the range"),
        (("--runtime", "nonsense"), "is not a runtime"),
    ],
)
def test_what_cannot_be_played_is_said_without_a_traceback(
    invoker: Invoker, options: tuple[str, ...], said: str
) -> None:
    done = invoker.run(*DEMO, *options)
    assert done.code in {1, 2}
    assert said in done.output
    assert "Traceback" not in done.output
    assert not any(invoker.state.glob("kvcache/process/*"))
