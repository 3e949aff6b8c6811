"""Seeded chats of several turns and a given approximate length."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).resolve().parents[1] / "demo_corpus.txt"
WORDS = CORPUS.read_text(encoding="utf-8").split("\n\nEin Sprachmodell")[0].split(" ")
SYSTEM_SHARE = 0.15
USER_SHARE = 0.3

Message = dict[str, Any]


def conversation(seed: int, turns: int, words: float) -> list[Message]:
    """A system message and `turns` questions, all but the last with an answer: about `words` words."""
    random_ = random.Random(seed)
    share = words * (1 - SYSTEM_SHARE) / turns
    messages = [{"role": "system", "content": _prose(random_, words * SYSTEM_SHARE)}]
    for _ in range(turns):
        messages.append({"role": "user", "content": _prose(random_, share * USER_SHARE)})
        messages.append({"role": "assistant", "content": _prose(random_, share * (1 - USER_SHARE))})
    return messages[:-1]


def upto(messages: list[Message], turn: int) -> list[Message]:
    """The conversation up to the question of a turn, counted from 0."""
    return [dict(message) for message in messages[: 2 * turn + 2]]


def _prose(random_: random.Random, words: float) -> str:
    count = max(1, round(words * random_.uniform(0.7, 1.3)))
    chosen: list[str] = []
    while len(chosen) < count:
        start = random_.randrange(len(WORDS))
        chosen += WORDS[start : start + random_.randrange(3, 12)]
    return " ".join(chosen[:count])
