"""The help of every command: short, with examples that are valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from orchestrator.cli import app
from orchestrator.examples import EXAMPLES

_GROUP: Any = typer.main.get_command(app)
COMMANDS = _GROUP.commands
OWN = [name for name, command in COMMANDS.items() if "ignore_unknown_options" not in command.context_settings]


def examples() -> Iterator[tuple[str, str]]:
    return ((name, line) for name, lines in EXAMPLES.items() for line in lines)


def test_every_command_has_examples_or_a_help_of_its_own() -> None:
    assert sorted(EXAMPLES) == sorted(OWN)


@pytest.mark.parametrize(("command", "line"), list(examples()))
def test_every_example_is_a_valid_command_line(command: str, line: str) -> None:
    program, name, *arguments = shlex.split(re.split("[>|]", line)[0])
    assert (program, name) == ("kvcache", command)
    with COMMANDS[command].make_context(command, arguments) as context:
        assert context.args == []


@pytest.mark.parametrize("command", ["doctor", "render"])
def test_the_help_names_each_option_of_up_that_a_command_does_not_take(command: str) -> None:
    flags = {one.name: one.opts[0] for one in COMMANDS["up"].params if one.opts[0].startswith("--")}
    own = {one.name for one in COMMANDS[command].params}
    left_out = [flag for name, flag in flags.items() if name not in {*own, "dry", "quiet"}]
    assert sorted(re.findall(r"--[a-z-]+", COMMANDS[command].help.partition("but not")[2].partition(";")[0])) == sorted(
        left_out
    )


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_list_of_commands_cuts_no_sentence(command: str) -> None:
    assert not COMMANDS[command].get_short_help_str(62).endswith("...")
