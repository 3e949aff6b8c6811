"""An LRU cache bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class ByteLru(Generic[Key, Value]):
    """Values by key. At capacity, the least recently used are evicted. Not thread-safe."""

    def __init__(
        self, capacity: int, size: Callable[[Key, Value], int], on_evict: Callable[[Value], None] | None = None
    ) -> None:
        """`capacity` is in bytes, as `size` counts them; 0 disables the cache. `on_evict` gets each evicted value."""
        self.capacity = capacity
        self.size_bytes = 0
        self._size = size
        self._on_evict = on_evict
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Returns a value without marking it as used."""
        return self._entries.get(key)

    def touch(self, key: Key) -> None:
        """Marks a value as the most recently used; raises KeyError if it is absent."""
        self._entries.move_to_end(key)

    def put(self, key: Key, value: Value) -> bool:
        """Stores or replaces a value; False if it is larger than the capacity."""
        size = self._size(key, value)
        if size > self.capacity:
            return False
        self.discard(key)
        self._entries[key] = value
        self.grow(size)
        return True

    def grow(self, size: int) -> None:
        """Updates the size of an entry that grew by `size` bytes (negative: it shrank)."""
        self.size_bytes += size
        while self.size_bytes > self.capacity:
            self._release(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Evicts all values."""
        while self._entries:
            self._release(*self._entries.popitem(last=False))

    def discard(self, key: Key) -> None:
        if (value := self._entries.pop(key, None)) is not None:
            self._release(key, value)

    def _release(self, key: Key, value: Value) -> None:
        self.size_bytes -= self._size(key, value)
        if self._on_evict is not None:
            self._on_evict(value)
