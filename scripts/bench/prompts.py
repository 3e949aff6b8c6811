#!/usr/bin/env python3
"""CPU time of scoring a conversation turn by turn, with and without its earlier turns in the cache.

A seeded conversation grows turn by turn to each given number of tokens. After each turn it is scored: rendered,
tokenized, split into blocks and looked up in an index that holds all earlier turns. Prints CPU milliseconds of all
threads: the minimum over several runs with empty caches, then the median over several conversations:

  anew   `Tokenizer.encode` of the whole text: no rendering, no blocks, no lookup
  first  scoring without any earlier turn in the cache
  next   scoring after the previous turn was scored
  ratio  anew / next

Targets for the last turn's ratio: 20 at 8,000 tokens, 40 at 32,000.

With --renderers, it prints a line per renderer instead (scripts/bench/renderers.py).

Usage: scripts/bench/prompts.py [--renderers] [--model NAME] [--models-dir FOLDER] [--turns N] [--tokens N ...]
                                [--conversations N] [--runs N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.bench import renderers  # noqa: E402 - after the checkout is on the path
from scripts.bench.conversations import Message, conversation, upto  # noqa: E402
from service.contract.tier_weights import TierWeights  # noqa: E402
from service.index.base import Prompt, Rank, Stored, TokenIds  # noqa: E402
from service.index.keys import block_keys  # noqa: E402
from service.index.memory import MemoryIndex  # noqa: E402
from service.index.scoring import pod_scores  # noqa: E402
from service.prompts.chat import Chat  # noqa: E402
from service.prompts.models.catalog import Models  # noqa: E402
from service.prompts.models.model import Model  # noqa: E402
from service.prompts.options import PromptOptions  # noqa: E402
from service.prompts.renderers.base import Rendered  # noqa: E402

ENGINE_BLOCK = 16
BLOCK_SIZE = 256
WEIGHTS = TierWeights()


class Turn(NamedTuple):
    """CPU milliseconds of one turn of a conversation."""

    tokens: int
    anew: float
    first: float
    next: float


class Stopwatch:
    """CPU time of this process, over all threads."""

    milliseconds: float

    def __enter__(self) -> Stopwatch:
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.milliseconds = (time.process_time() - self._started) * 1000


class Bench:
    """Scores conversations with one model against the index of one engine."""

    def __init__(self, models: Models, model: Model, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._index = MemoryIndex(1_000_000, key_cache_bytes=16 << 20)
        self._rank = Rank("engine:8000", model.name)

    async def score(self, messages: list[Message]) -> Rendered:
        """A request without HTTP: rendering, tokens, block keys, lookup and scores."""
        rendered = await self._model.render(Chat(messages=messages))
        matches = self._index.match(Prompt(self._model.name, rendered.tokens))
        pod_scores(matches, WEIGHTS, BLOCK_SIZE)
        return rendered

    def anew(self, text: str) -> TokenIds:
        """The tokens of a text from the tokenizer alone."""
        return array("I", self._tokenizer.encode(text, add_special_tokens=False).ids)

    def served(self, tokens: TokenIds) -> None:
        whole = tokens[: len(tokens) // ENGINE_BLOCK * ENGINE_BLOCK]
        self._index.store(self._rank, Stored(block_keys(0, whole, ENGINE_BLOCK), None, whole, ENGINE_BLOCK))


async def words_for(bench: Bench, seed: int, turns: int, tokens: int) -> int:
    """The number of words for a conversation of about `tokens` tokens."""
    words = tokens
    for _ in range(4):
        rendered = await bench.score(conversation(seed, turns, words))
        words = round(words * tokens / len(rendered.tokens))
    return words


async def measure(bench: Bench, turns: int, words: int, seed: int) -> list[Turn]:
    """Scores a conversation after each turn, then tokenizes its texts, then scores others for the first time."""
    known = conversation(seed, turns, words)
    asked = [upto(known, turn) for turn in range(turns)]
    unseen = [upto(conversation(seed * 1000 + turn + 1, turns, words), turn) for turn in range(turns)]
    rendered, again = [], []
    for messages in asked:
        with Stopwatch() as watch:
            answer = await bench.score(messages)
        again.append(watch.milliseconds)
        rendered.append(answer)
        bench.served(answer.tokens)
    anew = []
    for text, tokens in rendered:
        with Stopwatch() as watch:
            whole = bench.anew(text)
        anew.append(watch.milliseconds)
        assert whole == tokens, "the cache gives other tokens than the tokenizer"  # noqa: S101
    first = []
    for messages in unseen:
        with Stopwatch() as watch:
            await bench.score(messages)
        first.append(watch.milliseconds)
    return [Turn(len(answer.tokens), *times) for answer, *times in zip(rendered, anew, first, again, strict=True)]


async def run(arguments: argparse.Namespace, tokens: int) -> list[Turn]:
    """The cost of each turn up to `tokens` tokens, over all conversations and runs."""
    folder = ROOT / "service" / "prompts" / "models" if arguments.model.startswith("builtin/") else arguments.models_dir
    tokenizer = Tokenizer.from_file(str(folder / arguments.model / "tokenizer.json"))
    words: dict[int, int] = {}
    by_conversation: list[list[list[Turn]]] = [[] for _ in range(arguments.conversations)]
    for _ in range(1 + arguments.runs):
        for seed, runs in enumerate(by_conversation, 1):
            models = Models(PromptOptions(models_dir=arguments.models_dir))
            bench = Bench(models, await models.get(arguments.model), tokenizer)
            if seed in words:
                runs.append(await measure(bench, arguments.turns, words[seed], seed))
            else:
                words[seed] = await words_for(bench, seed, arguments.turns, tokens)
            await models.close()
    best = [[_each(min, turn) for turn in zip(*runs, strict=True)] for runs in by_conversation]
    return [_each(statistics.median, turn) for turn in zip(*best, strict=True)]


def _each(choose: Callable[[Iterable[float]], float], turns: Iterable[Turn]) -> Turn:
    tokens, *times = (choose(values) for values in zip(*turns, strict=True))
    return Turn(round(tokens), *times)


def show(turns: list[Turn]) -> None:
    print(f"{'turn':>4} {'tokens':>7} {'anew':>8} {'first':>8} {'next':>8} {'ratio':>6}")
    for number, turn in enumerate(turns, 1):
        if number in (1, 2, 3) or number % 5 == 0:
            ratio = turn.anew / turn.next
            print(f"{number:4} {turn.tokens:7} {turn.anew:8.3f} {turn.first:8.3f} {turn.next:8.3f} {ratio:6.1f}")
    last = turns[-1]
    print(f"at {last.tokens:,} tokens, the next turn costs 1/{last.anew / last.next:.1f} of tokenizing anew")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/demo")
    parser.add_argument("--models-dir", type=Path, default=PromptOptions().models_dir)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8000, 32000])
    parser.add_argument("--conversations", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--renderers", action="store_true", help="a line per renderer")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.renderers:
        arguments.words = 3 * arguments.tokens[0] // 4
        asyncio.run(renderers.run(arguments))
        return
    measured = {tokens: asyncio.run(run(arguments, tokens)) for tokens in arguments.tokens}
    if arguments.json:
        print(json.dumps({tokens: [turn._asdict() for turn in turns] for tokens, turns in measured.items()}))
        return
    for turns in measured.values():
        show(turns)


if __name__ == "__main__":
    main()
