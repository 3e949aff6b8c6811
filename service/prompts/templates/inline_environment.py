"""Renders the operator's chat templates on the event loop, within limits of size and time.

Such a template is trusted not to be malicious, but a client chooses the conversation: a large or slow one is rendered
in a process (`render_processes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import jinja2
import msgspec

from service.prompts.templates.environment import ChatEnvironment, too_many

_BUDGET_SECONDS = 0.010
"""CPU time limit for one rendering on the event loop."""

_MAX_VARIABLE_BYTES = 1 << 20
_PIECES_PER_CHECK = 256

_encoder = msgspec.msgpack.Encoder()


class OverBudget(Exception):
    """The rendering is too large or too slow for the event loop, and must run in a process."""


class InlineEnvironment(ChatEnvironment):
    """An environment that checks time and size while it renders. Not thread-safe."""

    def __init__(self, max_characters: int, budget_seconds: float = _BUDGET_SECONDS) -> None:
        super().__init__()
        self._max_characters = max_characters
        self._budget_seconds = budget_seconds
        self._next_check = self._started = 0.0
        self._shared_globals = dict(self.globals)
        self._packed = bytearray()
        self.concat = self._concat  # type: ignore[method-assign] # jinja2 joins the output of macros and blocks with it

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Returns the text; raises OverBudget, ValueError beyond `max_characters`, and the template's own errors.

        The clock is checked every few dozen pieces of output and after each macro, so a loop without output can exceed
        the budget.
        """
        self._started = time.thread_time()
        self._next_check = time.monotonic() + self._budget_seconds
        self._check_size(variables)
        # Merging the globals here takes a third of the time of `new_context`.
        context = template.new_context(self._shared_globals | variables, shared=True)
        output = template.root_render_func(context)
        texts: list[str] = []
        size = 0
        while batch := list(islice(output, _PIECES_PER_CHECK)):
            texts.append("".join(batch))
            size += len(texts[-1])
            self._check(size)
        return "".join(texts)

    def cpu_seconds(self) -> float:
        """CPU time of this thread since the last rendering began."""
        return time.thread_time() - self._started

    def _concat(self, pieces: Iterable[str]) -> str:
        text = "".join(pieces)
        self._check(len(text))
        return text

    def _check(self, characters: int) -> None:
        if characters > self._max_characters:
            raise ValueError(too_many(self._max_characters))
        if time.monotonic() < self._next_check:
            return
        # Other threads may have used the CPU in the meantime; only this thread's CPU time counts.
        left = self._started + self._budget_seconds - time.thread_time()
        if left < 0:
            raise OverBudget
        self._next_check = time.monotonic() + left

    def _check_size(self, variables: Mapping[str, Any]) -> None:
        """Raises OverBudget for large variables; packing them is cheaper than traversing them."""
        try:
            _encoder.encode_into(variables, self._packed)
        except (UnicodeEncodeError, OverflowError, RecursionError, TypeError):
            raise OverBudget from None
        if len(self._packed) > _MAX_VARIABLE_BYTES:
            self._packed = bytearray()
            raise OverBudget
