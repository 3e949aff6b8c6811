"""What a chat template's loop over a list reads of `loop`, in the Python that mypyc makes fast C of."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from mypy_extensions import i64


@final
class Iteration:
    """Gives each item with itself, and says where it is; the fields of jinja2's LoopContext, and nothing else of it."""

    def __init__(self, items: list[object], undefined: Callable[[str], object]) -> None:
        self._items = items
        self._undefined = undefined
        self._at: i64 = -1

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> object:
        self._at += 1
        if self._at >= len(self._items):
            raise StopIteration
        return self._items[self._at], self

    @property
    def depth0(self) -> int:
        return 0

    @property
    def depth(self) -> int:
        return 1

    @property
    def index0(self) -> int:
        return self._at

    @property
    def index(self) -> int:
        return self._at + 1

    @property
    def length(self) -> int:
        return len(self._items)

    @property
    def revindex0(self) -> int:
        return len(self._items) - self._at - 1

    @property
    def revindex(self) -> int:
        return len(self._items) - self._at

    @property
    def first(self) -> bool:
        return self._at == 0

    @property
    def last(self) -> bool:
        return self._at == len(self._items) - 1

    @property
    def previtem(self) -> object:
        return self._items[self._at - 1] if self._at > 0 else self._undefined("there is no previous item")

    @property
    def nextitem(self) -> object:
        after = self._at + 1
        return self._items[after] if after < len(self._items) else self._undefined("there is no next item")
