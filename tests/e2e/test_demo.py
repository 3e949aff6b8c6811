"""The demo with the service and the simulated engines in one real container."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.command import Command
from tests.e2e.containers import RuntimeCommand, Up

NEVER = 100_000


class Demo(Up):
    """A demo in a container of its own name."""

    def play(self, *more: str) -> Command:
        options = ("--runtime", self.runtime.kind, "--name", self.name, "--image", self.runtime.image)
        return self.kvcache.start("demo", *options, *more)


@pytest.fixture
def demo(running: Up, runtime: RuntimeCommand) -> Iterator[Demo]:
    found = Demo(runtime, running.kvcache, "demo")
    yield found
    runtime("rm", "--force", found.name, check=False)


def test_predictions_come_true_in_a_container_and_nothing_is_left(demo: Demo) -> None:
    done = demo.play("--requests", "120", "--json").finish(400)
    document = json.loads(done.output)
    assert (done.code, document["runtime"], document["differences"]) == (0, demo.runtime.kind, [])
    aware, round_robin, at_random = (tally["hit_rate"] for tally in document["policies"])
    assert aware > 1.2 * max(round_robin, at_random)
    assert demo.left() == []


def test_a_runtime_that_is_too_small_is_said_by_what_failed_inside(demo: Demo) -> None:
    done = demo.play("--blocks", "20").finish(400)
    assert done.code == 1
    assert "give the engines more (--blocks)" in done.output
    assert "Traceback" not in done.output
    assert demo.left() == []


def test_ctrl_c_removes_the_container_while_engines_run_in_it(demo: Demo) -> None:
    command = demo.play("--requests", str(NEVER), "--rate", "20")
    command.wait_for("\n3: conversation", seconds=120)
    command.interrupt()
    done = command.finish()
    assert done.code == 130
    assert "Container removed successfully" in done.output
    assert demo.left() == []
