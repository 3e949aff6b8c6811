#!/usr/bin/env python3
"""Compares the rendering time of chat templates here and in transformers, in the same run.

For each template (a *.jinja file of the given folders) and two conversations, one of texts and one of tool calls,
prints the minimum CPU time in milliseconds over several alternating renderings. A conversation that a template rejects
is skipped. Exit code 1 if a template is slower here.

Usage: python -m scripts.bench.templates [FOLDER …] [--runs N] [--tolerance SHARE]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from scripts.bench.conversations import conversation
from service.prompts.templates.inline_environment import InlineEnvironment

ROOT = Path(__file__).resolve().parents[2]
BUILTIN = ROOT / "service" / "prompts" / "models" / "builtin" / "demo"
FUNCTION = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "its name"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}


def conversations() -> dict[str, dict[str, Any]]:
    """Returns the variables of each conversation by name."""
    texts = [*conversation(1, 40, 6000)]
    without_system = texts[1:] if texts[0]["role"] == "system" else texts
    call = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    calls: list[dict[str, Any]] = []
    for message in without_system:
        calls.append(dict(message))
        if message["role"] == "user":
            calls.append({"role": "assistant", "content": "", "tool_calls": [call]})
            calls.append({"role": "tool", "content": '{"degrees": 12}', "tool_call_id": "call12345"})
    common = {"documents": None, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    return {
        "texts": {**common, "messages": without_system, "tools": None},
        "calls": {**common, "messages": calls, "tools": [{"type": "function", "function": FUNCTION}]},
    }


def least(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[float, float]:
    """Returns the minimum CPU time of each, in milliseconds, run in turn."""
    best = [float("inf"), float("inf")]
    for _ in range(runs):
        for number, render in enumerate((first, second)):
            started = time.process_time()
            render()
            best[number] = min(best[number], (time.process_time() - started) * 1000)
    return best[0], best[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[BUILTIN])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--tolerance", type=float, default=0.05)
    arguments = parser.parse_args()
    slower = 0
    print(f"{'template':45} {'chat':6} {'transformers':>12} {'here':>8} {'ratio':>6}")
    for path in sorted(path for folder in arguments.folders for path in folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        environment = InlineEnvironment(10_000_000, budget_seconds=10)
        template = environment.from_string(source)
        for name, variables in conversations().items():
            rest = dict(variables)
            theirs = partial(render_jinja_template, [rest.pop("messages")], chat_template=source, **rest)
            ours = partial(environment.render, template, variables)
            try:
                expected = theirs()[0][0]
            except Exception as error:
                print(f"{path.stem:45} {name:6} refused: {str(error)[:60]}")
                continue
            assert ours() == expected, path  # noqa: S101 - a check of the benchmark itself
            their_time, our_time = least(theirs, ours, arguments.runs)
            slower += our_time > their_time * (1 + arguments.tolerance)
            print(f"{path.stem:45} {name:6} {their_time:12.3f} {our_time:8.3f} {their_time / our_time:6.1f}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
