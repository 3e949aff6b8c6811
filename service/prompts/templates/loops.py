"""The `loop` of `{% for %}` over a list, without jinja2's look at the next item; most templates read `loop.last`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2.runtime import LoopContext

LOOP_FIELDS = frozenset(
    {"depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"}
)
"""The fields of a loop that are values; the sandbox allows them."""


class ListLoop(LoopContext):
    """jinja2's LoopContext with the same fields; the list does not change, since the sandbox forbids it."""

    def __init__(self, items: list[Any], undefined: Callable[..., Any], *recursion: Any) -> None:
        super().__init__(items, undefined, *recursion)  # type: ignore[arg-type]
        self._items = items
        self._final = len(items) - 1

    def __iter__(self) -> Iterator[tuple[Any, ListLoop]]:  # type: ignore[override]
        for number, item in enumerate(self._items):
            self.index0 = number
            yield item, self

    @property
    def last(self) -> bool:
        return self.index0 == self._final

    @property
    def previtem(self) -> Any:
        return self._items[self.index0 - 1] if self.index0 > 0 else self._undefined("there is no previous item")

    @property
    def nextitem(self) -> Any:
        return self._items[self.index0 + 1] if self.index0 < self._final else self._undefined("there is no next item")

    def __repr__(self) -> str:
        return f"<LoopContext {self.index}/{self.length}>"


def loop_over(
    items: Iterable[Any], undefined: Callable[..., Any], *recursion: Any
) -> Iterable[tuple[Any, LoopContext]]:
    """The iterator of a compiled `{% for %}`: gives each item, and the loop."""
    loop: type[LoopContext] = ListLoop if type(items) is list else LoopContext
    return loop(items, undefined, *recursion)  # type: ignore[arg-type]
