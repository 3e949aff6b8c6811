"""What was used last, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class RecentlyUsed(Generic[Key, Value]):
    """Values by key; without room, those that were not used for longest are let go. For one thread at a time."""

    def __init__(
        self, capacity: int, size: Callable[[Key, Value], int], gone: Callable[[Value], None] | None = None
    ) -> None:
        """`capacity` in bytes, as `size` gives them; 0 keeps nothing. `gone` is called with what is let go."""
        self.capacity = capacity
        self.used = 0
        self.written = 0
        """Bytes of all that was ever put."""
        self._size = size
        self._gone = gone
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Gives a value; that alone does not count as use."""
        return self._entries.get(key)

    def use(self, key: Key) -> None:
        """Makes a value that is there the last to go."""
        self._entries.move_to_end(key)

    def put(self, key: Key, value: Value) -> bool:
        """Keeps a value, in place of what was there; False for one that is too large."""
        size = self._size(key, value)
        if size > self.capacity:
            return False
        self.let_go(key)
        self._entries[key] = value
        self.grow(size)
        return True

    def grow(self, size: int) -> None:
        """Takes note that what is kept takes that many bytes more, or less."""
        self.written += max(0, size)
        self.used += size
        while self.used > self.capacity:
            self._drop(*self._entries.popitem(last=False))

    def let_go(self, key: Key) -> None:
        """Lets a value go, if it is there."""
        if (value := self._entries.pop(key, None)) is not None:
            self._drop(key, value)

    def _drop(self, key: Key, value: Value) -> None:
        self.used -= self._size(key, value)
        if self._gone is not None:
            self._gone(value)
