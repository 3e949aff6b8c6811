#!/usr/bin/env python3
"""Compares the tokens of chats here with those of a real vLLM, over a table of request bodies.

Start `VLLM_SYSTEM_START_DATE=2026-01-02 vllm launch render FOLDER --port PORT`, which needs neither weights nor a GPU,
then: python -m scripts.prompt_parity http://127.0.0.1:PORT FOLDER [--save FILE]

Prints each body that differs; exit code 1 if one does. --save writes vLLM's results, for tests without it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import requests

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from tests.service.prompts.bodies import BODIES

DATE = "2026-01-02"


def vllm(url: str, model: str, body: dict[str, Any]) -> list[int] | None:
    """vLLM's tokens; None if it rejects the body."""
    answer = requests.post(f"{url}/v1/chat/completions/render", json={"model": model, **body}, timeout=60)
    if answer.status_code >= 400:
        return None
    tokens: list[int] = answer.json()["token_ids"]
    return tokens


async def ours(folder: Path, body: dict[str, Any]) -> list[int] | str:
    """The tokens here, or the reason why the body is rejected."""
    models = Models(PromptOptions(models_dir=folder.parent, max_models=1))
    try:
        return (await (await models.get(folder.name)).render(msgspec.convert(body, Chat))).tokens.tolist()
    except (PromptError, msgspec.ValidationError) as error:
        return str(error)
    finally:
        await models.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    os.environ["VLLM_SYSTEM_START_DATE"] = DATE
    model = requests.get(f"{arguments.url}/v1/models", timeout=10).json()["data"][0]["id"]
    saved, different = {}, 0
    for name, body in BODIES.items():
        expected, got = vllm(arguments.url, model, body), asyncio.run(ours(arguments.folder, body))
        saved[name] = expected
        if isinstance(got, str):
            print(f"{name}: refused here ({got}), {'and' if expected is None else 'not'} by vLLM")
            different += expected is not None
        elif got != expected:
            different += 1
            at = next((n for n, (a, b) in enumerate(zip(got, expected or [], strict=False)) if a != b), -1)
            print(f"{name}: differs at token {at} of {len(got)} here and {len(expected or [])} there")
    if arguments.save:
        arguments.save.write_text(json.dumps(saved), encoding="utf-8")
    print(f"{len(BODIES) - different} of {len(BODIES)} bodies equal")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
