"""Texts to try tokenizers and templates on: cut from a corpus, with added tokens and oddities strewn in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

CORPUS = (Path(__file__).resolve().parents[3] / "scripts" / "demo_corpus.txt").read_text(encoding="utf-8")

ODDITIES = (
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    " \n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\x00",
    "\x1c",
    "\x85",
    "\ufeff",
    "e\u0301",
    "ﬁ",
    "ß",
    "Å",
    "\u212b",
    "e\u0300\u0316\u0301",
    "क्षि",
    "한\u1100\u1161",
    "👨‍👩‍👧",
    "🇩🇪",
    "مرحبا",
    "\u202eabc\u202c",
    "<|",
    "|>",
    "<",
    "<｜",
    "｜>",
    "</s>",
    "<|im_start|>",
    "[INST]",
    "'s",
    "'S",
    "'re",
    "don't",
    "I'LL",
    "1234567",
    "３４",
    "²",
    "Ⅷ",
    "a b c d e f",
    "word word",
    "A. B",
    "...",
    "!?",
    "\u2581",
    "Ġ",
    "\U0010ffff",
    "{{ x }}",
    "{% if %}",
)


def random_text(random_: random.Random, added: Sequence[str], pieces: int = 12) -> str:
    """Gives a text of a few hundred characters at most."""
    return "".join(_random_piece(random_, added) for _ in range(random_.randrange(1, pieces)))


def growing_texts(random_: random.Random, added: Sequence[str]) -> Iterator[str]:
    """Gives the turns of one conversation: each text starts with the one before it, but for its very end."""
    text = ""
    for _ in range(random_.randrange(1, 8)):
        text += random_text(random_, added, 6)
        yield text + random_.choice(("", random_.choice(added), random_.choice(ODDITIES)))


def _random_piece(random_: random.Random, added: Sequence[str]) -> str:
    match random_.randrange(6):
        case 0:
            return random_.choice(added)
        case 1:
            return random_.choice(ODDITIES)
        case 2:
            token = random_.choice(added)
            return token[: random_.randrange(len(token) + 1)]
        case _:
            start = random_.randrange(len(CORPUS))
            return CORPUS[start : start + random_.randrange(60)]
