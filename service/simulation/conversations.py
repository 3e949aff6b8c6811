"""Seeded conversations of several turns that share a few system prompts, as in production."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple, TypeAlias

from service.simulation.phrases import GREETINGS, PERSONAS, QUESTIONS, RECORDS, RULES, Persona

Message: TypeAlias = dict[str, str]

_RECORDS_PER_PERSONA = 14
_MAX_TURNS = 9


class Turn(NamedTuple):
    """One request: all messages up to the user's latest."""

    conversation: int
    number: int
    messages: list[Message]


class Conversations:
    """An endless iterator over the turns of `concurrency` interleaved conversations.

    Each turn is from a conversation chosen at random; a new one replaces a conversation that ends. `answer` tells the
    model's reply to a turn before the next one is taken. Equal seeds and replies give equal turns.
    """

    def __init__(self, seed: int, concurrency: int) -> None:
        self._random = Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._systems = [self._system(persona) for persona in PERSONAS]
        self._started = 0
        self._histories: dict[int, list[Message]] = {}
        self._open = [self._start() for _ in range(concurrency)]

    def __iter__(self) -> Iterator[Turn]:
        while True:
            index = self._random.randrange(len(self._open))
            turn = next(self._open[index], None)
            if turn is None:
                self._open[index] = self._start()
                turn = next(self._open[index])
            yield turn

    def answer(self, turn: Turn, reply: str) -> None:
        self._histories[turn.conversation].append({"role": "assistant", "content": reply})

    def _start(self) -> Iterator[Turn]:
        self._started += 1
        persona = self._random.randrange(len(PERSONAS))
        return self._turns(
            self._started, PERSONAS[persona], self._systems[persona], self._random.randint(3, _MAX_TURNS)
        )

    def _turns(self, conversation: int, persona: Persona, system: str, turns: int) -> Iterator[Turn]:
        messages = self._histories[conversation] = [{"role": "system", "content": system}]
        for number in range(1, turns + 1):
            asked = self._phrases(persona, GREETINGS, 1) if number == 1 else self._phrases(persona, QUESTIONS, 2)
            messages.append({"role": "user", "content": asked})
            yield Turn(conversation, number, list(messages))
        del self._histories[conversation]

    def _system(self, persona: Persona) -> str:
        rules = " ".join(self._random.sample(RULES, 8))
        return f"{persona.role} {rules} {self._phrases(persona, RECORDS * _RECORDS_PER_PERSONA, _RECORDS_PER_PERSONA)}"

    def _phrases(self, persona: Persona, phrases: tuple[str, ...], sentences: int) -> str:
        return " ".join(
            phrase.format(
                item=self._random.choice(persona.items),
                place=self._random.choice(persona.places),
                event=self._random.choice(persona.events),
                number=self._random.randint(100, 999),
                day=self._random.randint(1, 30),
                hour=self._random.randint(7, 21),
            )
            for phrase in self._random.sample(phrases, sentences)
        )
