"""Requests to a real engine, each predicted before it is sent."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.real_vllm.servers import BLOCK_SIZE, MODEL, Engine, Kvcache

_LONGEST = 900


class Prediction(NamedTuple):
    """What kvcache said that an engine would reuse, and what it reused, in tokens."""

    number: int
    about: str
    tokens: int
    predicted: int
    reused: int
    exact: bool
    """Whether kvcache claimed to know."""


@dataclass(frozen=True)
class Kind:
    """Whose blocks a request shares."""

    lora_name: str | None = None
    cache_salt: str | None = None
    rank: int | None = None


@dataclass
class Oracle:
    """Sends requests to one engine and remembers what was predicted for each."""

    engine: Engine
    kvcache: Kvcache
    predictions: list[Prediction] = field(default_factory=list)

    def conversations(self, seed: int) -> Conversations:
        """Prompts of the engine's vocabulary."""
        config = json.loads((self.engine.model / "config.json").read_text())
        return Conversations(seed, config["vocab_size"])

    @property
    def wrong(self) -> list[Prediction]:
        return [prediction for prediction in self.predictions if prediction.predicted != prediction.reused]

    @property
    def wrong_claims(self) -> list[Prediction]:
        """Wrong predictions that were said to be exact."""
        return [prediction for prediction in self.wrong if prediction.exact]

    def predict(self, tokens: Sequence[int], kind: Kind, **more: Any) -> int:
        """How many tokens of a prompt the engine reuses, says kvcache: all but the last at most."""
        matched = self._matched(tokens, kind, more)
        return matched if matched < len(tokens) else self._matched(tokens[:-1], kind, more)

    def _matched(self, tokens: Sequence[int], kind: Kind, more: dict[str, Any]) -> int:
        prompt = {"prompt": list(tokens), "lora_name": kind.lora_name, "cache_salt": kind.cache_salt, **more}
        matches = self.kvcache.explain(model=MODEL, **prompt)["matches"]
        wanted = (self.engine.pod, kind.rank or 0)
        return next((match["matched_tokens"] for match in matches if (match["pod"], match["rank"]) == wanted), 0)

    def ask(self, tokens: Sequence[int], kind: Kind, max_tokens: int = 1, **more: Any) -> list[int]:
        """Predicts a request, sends it, waits until its events were heard, and gives what the engine generated."""
        predicted = self.predict(tokens, kind, **more)
        pod = self.kvcache.pods().get((self.engine.pod, kind.rank or 0))
        answer = self.send(tokens, kind, max_tokens, **more)
        self.kvcache.settle(self.engine)
        usage = answer["usage"]
        assert usage["prompt_tokens"] == len(tokens)
        reused = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        number, about = len(self.predictions), str(kind)
        self.predictions.append(Prediction(number, about, len(tokens), predicted, reused, pod is None or pod["exact"]))
        return list(answer["choices"][0]["token_ids"])

    def send(self, tokens: Sequence[int], kind: Kind, max_tokens: int, **more: Any) -> dict[str, Any]:
        """Sends a request without a prediction."""
        body: dict[str, Any] = {"prompt": list(tokens), "max_tokens": max_tokens, "temperature": 0, **more}
        if kind.cache_salt is not None:
            body["cache_salt"] = kind.cache_salt
        model = kind.lora_name or MODEL
        return self.engine.complete(model=model, rank=kind.rank, ignore_eos=True, return_token_ids=True, **body)

    def send_together(self, prompts: Sequence[Sequence[int]], kind: Kind, max_tokens: int) -> None:
        """Sends several requests at once, and waits until their events were heard."""
        with ThreadPoolExecutor(len(prompts)) as threads:
            list(threads.map(lambda tokens: self.send(tokens, kind, max_tokens), prompts))
        self.kvcache.settle(self.engine)


class Conversations:
    """Seeded prompts that share prefixes: some grow, some are cut, some end on a block border, some come again."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        self._random = random.Random(seed)
        self._vocabulary = vocabulary
        self.roots = [self.tokens(size) for size in (150, 3 * BLOCK_SIZE, 230)]
        self._grown = [list(root) for root in self.roots]

    def tokens(self, size: int) -> list[int]:
        """Random token ids."""
        return [self._random.randrange(10, self._vocabulary) for _ in range(size)]

    def choose(self, kinds: Sequence[Kind]) -> Kind:
        return self._random.choice(kinds)

    def next(self) -> tuple[int, list[int]]:
        """A conversation's number and its prompt."""
        number = self._random.randrange(len(self._grown))
        tokens = self._grown[number]
        match self._random.randrange(6):
            case 0:  # another conversation after the same system prompt
                tokens = self._random.choice(self.roots) + self.tokens(self._random.randrange(1, 80))
            case 1:  # the same prompt again
                pass
            case 2:  # cut at a block's border
                tokens = tokens[: max(1, len(tokens) // BLOCK_SIZE) * BLOCK_SIZE]
            case _:
                tokens = tokens + self.tokens(self._random.randrange(1, 60))
        if len(tokens) > _LONGEST:
            tokens = self._random.choice(self.roots) + self.tokens(20)
        self._grown[number] = tokens
        return number, tokens

    def together(self, count: int) -> list[list[int]]:
        """Prompts to be sent at once; some share a prefix that nobody has yet, and two are equal."""
        fresh = self.tokens(200)
        prompts = [fresh + self.tokens(self._random.randrange(1, 90)) for _ in range(count - 2)]
        return [*prompts, prompts[0], self.next()[1]]

    def answered(self, number: int, tokens: list[int], generated: list[int]) -> None:
        """Goes on with what the engine generated."""
        self._grown[number] = tokens + generated

    def max_tokens(self) -> int:
        return self._random.choice((1, 2, 40))


def converse(oracle: Oracle, conversations: Conversations, kinds: Sequence[Kind], turns: int) -> None:
    """One request after the other."""
    for _ in range(turns):
        number, tokens = conversations.next()
        generated = oracle.ask(tokens, conversations.choose(kinds), conversations.max_tokens())
        conversations.answered(number, tokens, generated)


def crowd(oracle: Oracle, conversations: Conversations, kinds: Sequence[Kind], rounds: int) -> None:
    """Several clients at once, and after each rush a request for each prompt of it alone, which is predicted."""
    for _ in range(rounds):
        kind = conversations.choose(kinds)
        prompts = conversations.together(5)
        oracle.send_together(prompts, kind, 3)
        for tokens in prompts:
            oracle.ask(tokens, kind)
