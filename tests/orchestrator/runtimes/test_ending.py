from __future__ import annotations

import pytest

from orchestrator.runtimes.base import Health, RuntimeKind, Service
from orchestrator.runtimes.ending import ending


def _ended(exit_code: int | None, *, out_of_memory: bool = False) -> Service:
    return Service(
        runtime=RuntimeKind.DOCKER,
        name="kv-test",
        ours=True,
        image="",
        state="exited",
        running=False,
        health=Health.UNKNOWN,
        exit_code=exit_code,
        out_of_memory=out_of_memory,
    )


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (1, "The service ended while it ran, with code 1."),
        (None, "The service ended while it ran, with an unknown exit code."),
        (137, "The service was killed while it ran (SIGKILL)."),
        (-9, "The service was killed while it ran (SIGKILL)."),
        (139, "The service was ended while it ran by SIGSEGV."),
        (-15, "The service was ended while it ran by SIGTERM."),
        (255, "The service ended while it ran, with code 255."),
    ],
)
def test_an_end_is_told_with_its_code_or_the_name_of_its_signal(exit_code: int | None, said: str) -> None:
    assert ending(_ended(exit_code), "The service", "while it ran", ()).what == said


def test_a_service_that_ran_out_of_memory_is_named_so_with_the_option_that_helps() -> None:
    problem = ending(_ended(137, out_of_memory=True), "The service", "while it ran", ("a line",))
    assert problem.what == "The service ended while it ran: out of memory."
    assert "--memory" in problem.remedy
    assert problem.details == ("a line",)


def test_a_kill_that_the_runtime_does_not_explain_names_memory_too() -> None:
    assert ending(_ended(137), "The service", "while it ran", ()).remedy.startswith(
        "The kernel does that when memory runs out"
    )
    shown = ending(_ended(137), "The service", "while it ran", ("a line",)).remedy
    assert shown.startswith("Its last lines are above; the kernel does that")
