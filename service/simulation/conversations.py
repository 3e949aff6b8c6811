"""Seeded conversations of several turns that share a few system prompts, as the users of one model have them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple, TypeAlias

from service.simulation.phrases import ANSWERS, DESKS, GREETINGS, QUESTIONS, RECORDS, RULES, Desk

Message: TypeAlias = dict[str, str]

_RECORDS_OF_A_DESK = 14
_MOST_TURNS = 9


class Turn(NamedTuple):
    """One request: all messages so far, the user's last, and the reply that the model will give."""

    conversation: int
    number: int
    messages: list[Message]
    reply: str


class Conversations:
    """Conversations of which `at_once` go on side by side; an ended one is followed by the next.

    Iterating gives their turns, without end, the next one from a conversation taken at random. Equal seeds give equal
    turns.
    """

    def __init__(self, seed: int, at_once: int) -> None:
        self._random = Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._systems = [self._system(desk) for desk in DESKS]
        self._begun = 0
        self._open = [self._begin() for _ in range(at_once)]

    def __iter__(self) -> Iterator[Turn]:
        while True:
            place = self._random.randrange(len(self._open))
            turn = next(self._open[place], None)
            if turn is None:
                self._open[place] = self._begin()
                turn = next(self._open[place])
            yield turn

    def _begin(self) -> Iterator[Turn]:
        self._begun += 1
        desk = self._random.randrange(len(DESKS))
        return self._turns(self._begun, DESKS[desk], self._systems[desk], self._random.randint(3, _MOST_TURNS))

    def _turns(self, conversation: int, desk: Desk, system: str, turns: int) -> Iterator[Turn]:
        messages: list[Message] = [{"role": "system", "content": system}]
        for number in range(1, turns + 1):
            asked = self._said(desk, GREETINGS, 1) if number == 1 else self._said(desk, QUESTIONS, 2)
            messages.append({"role": "user", "content": asked})
            reply = self._said(desk, ANSWERS, self._random.randint(2, 5))
            yield Turn(conversation, number, list(messages), reply)
            messages.append({"role": "assistant", "content": reply})

    def _system(self, desk: Desk) -> str:
        rules = " ".join(self._random.sample(RULES, 8))
        return f"{desk.role} {rules} {self._said(desk, RECORDS * _RECORDS_OF_A_DESK, _RECORDS_OF_A_DESK)}"

    def _said(self, desk: Desk, phrases: tuple[str, ...], sentences: int) -> str:
        return " ".join(
            phrase.format(
                item=self._random.choice(desk.items),
                place=self._random.choice(desk.places),
                event=self._random.choice(desk.events),
                number=self._random.randint(100, 999),
                day=self._random.randint(1, 30),
                hour=self._random.randint(7, 21),
            )
            for phrase in self._random.sample(phrases, sentences)
        )
