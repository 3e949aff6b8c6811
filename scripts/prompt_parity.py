#!/usr/bin/env python3
"""Compares prompts here with those of a real vLLM, over a table of bodies and texts and seeded random ones.

Start `VLLM_SYSTEM_START_DATE=2026-01-02 vllm launch render FOLDER --port PORT --runner generate
--enable-auto-tool-choice --tool-call-parser hermes`, which needs neither weights nor a GPU, then:

python -m scripts.prompt_parity http://127.0.0.1:PORT FOLDER [--save FILE] [--generated N] [--seed N]

Prints each request that differs and a last line of numbers; exit code 1 if one differs. A body that only one of the
two refuses counts as different, a body that vLLM answers with an error of its own (500) does not count. --save writes
vLLM's results for the table, for tests without it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import requests

from service.parity.comparison import first_difference
from service.parity.probes import TEXTS
from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.service.prompts.bodies import BODIES, generated_bodies, generated_texts

DATE = "2026-01-02"


@dataclass
class Compared:
    """The numbers of equal, different and refused requests, and vLLM's results by name; None for a refused one."""

    numbers: Counter[str] = field(default_factory=Counter)
    results: dict[str, list[int] | None] = field(default_factory=dict)

    def add(self, name: str, here: list[int] | str, there: list[int] | str) -> None:
        """Counts one request; a string is the reason of a refusal."""
        self.results[name] = None if isinstance(there, str) else there
        if isinstance(there, str) and there.startswith("500"):
            self.numbers["fails in vLLM"] += 1
        elif isinstance(here, str) and isinstance(there, str):
            self.numbers["refused by both"] += 1
        elif isinstance(here, str):
            self._differs(f"{name}: refused here only ({here})")
        elif isinstance(there, str):
            self._differs(f"{name}: refused by vLLM only ({there})")
        elif (position := first_difference(here, there)) is not None:
            self._differs(f"{name}: differs at token {position} of {len(here)} here and {len(there)} there")
        else:
            self.numbers["equal"] += 1

    def _differs(self, line: str) -> None:
        self.numbers["different"] += 1
        print(line)


def asked(url: str, path: str, body: dict[str, Any]) -> list[int] | str:
    """vLLM's tokens, or the status and reason of a refusal."""
    answer = requests.post(f"{url}{path}", json=body, timeout=60)
    if answer.status_code != 200:
        return f"{answer.status_code}: {answer.text[:150]}"
    found = answer.json()
    tokens: list[int] = (found[0] if isinstance(found, list) else found)["token_ids"]
    return tokens


async def chat_here(model: Model, body: dict[str, Any]) -> list[int] | str:
    try:
        return (await model.render(msgspec.convert(body, Chat))).tokens.tolist()
    except (PromptError, ModelUnavailable, msgspec.ValidationError) as error:
        return str(error)


async def text_here(model: Model, text: str) -> list[int] | str:
    try:
        return (await model.tokenize(text)).tolist()
    except (PromptError, ModelUnavailable) as error:
        return str(error)


async def compare(
    url: str, served: str, model: Model, chats: Iterable[tuple[str, Any]], texts: Iterable[tuple[str, str]]
) -> tuple[Compared, Compared]:
    """Compares chats and texts."""
    of_chats, of_texts = Compared(), Compared()
    for name, body in chats:
        there = asked(url, "/v1/chat/completions/render", {"model": served, **body})
        of_chats.add(name, await chat_here(model, body), there)
    for name, text in texts:
        there = asked(url, "/v1/completions/render", {"model": served, "prompt": text})
        of_texts.add(name, await text_here(model, text), there)
    return of_chats, of_texts


async def run(arguments: argparse.Namespace, served: str) -> int:
    folder = arguments.folder.resolve()
    models = Models(PromptOptions(models_dir=folder.parent, max_models=1))
    try:
        model = await models.get(folder.name)
        table = await compare(arguments.url, served, model, BODIES.items(), TEXTS.items())
        if arguments.save:
            saved = {"chats": table[0].results, "texts": table[1].results}
            arguments.save.write_text(json.dumps(saved, separators=(",", ":")), encoding="utf-8")
        more = await compare(
            arguments.url,
            served,
            model,
            generated_bodies(arguments.seed, arguments.generated),
            generated_texts(arguments.seed, 4 * arguments.generated),
        )
    finally:
        await models.close()
    found = {"chats": table[0], "texts": table[1], "generated chats": more[0], "generated texts": more[1]}
    print(
        f"{model.name} ({model.renderer_name}): "
        + "; ".join(
            f"{kind}: {', '.join(f'{number} {what}' for what, number in sorted(one.numbers.items()))}"
            for kind, one in found.items()
            if one.numbers
        )
    )
    return 1 if any(one.numbers["different"] for one in found.values()) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--generated", type=int, default=50, help="random chats, and four times as many texts")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["VLLM_SYSTEM_START_DATE"] = DATE
    served = requests.get(f"{arguments.url}/v1/models", timeout=10).json()["data"][0]["id"]
    return asyncio.run(run(arguments, served))


if __name__ == "__main__":
    sys.exit(main())
