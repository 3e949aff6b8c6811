"""Lookups in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service.lookups import Lookups


@pytest.fixture
def no_more_threads() -> Iterator[None]:
    """A stack larger than the address space: the system refuses every new thread."""
    before = threading.stack_size(1 << 50)
    yield
    threading.stack_size(before)


@pytest.mark.usefixtures("no_more_threads")
async def test_a_name_is_looked_up_again_after_the_system_gave_no_thread() -> None:
    lookups = Lookups(str.upper)
    with pytest.raises(OSError, match="thread"):
        await lookups.find("name")
    threading.stack_size(0)
    assert await lookups.find("name") == "NAME"
