"""The innermost loops: compiled where service/native was built, plain Python otherwise.

KVCACHE_LOOPS=plain leaves alone what was compiled.
"""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING

from service.native.sources import is_compiled

COMPILED = os.environ.get("KVCACHE_LOOPS") != "plain" and is_compiled()

if TYPE_CHECKING or not COMPILED:
    from service.native.plain import (
        Holding,
        Iteration,
        Table,
        block_keys,
        is_plain,
        messages_end,
        messages_start,
        prompt_ids,
        run,
        unpack_hashes,
        unpack_tokens,
        usual_batch,
        words,
    )
else:
    from service.native import bodies, numerals, table
    from service.native.batches import usual_batch
    from service.native.bodies import messages_end, messages_start
    from service.native.chats import is_plain
    from service.native.hashing import block_keys
    from service.native.iterations import Iteration
    from service.native.numerals import unpack_hashes
    from service.native.table import Holding, Table
    from service.native.words import words

    _Run = type(table.run([]))

    def run(numbers):
        return numbers if type(numbers) is _Run else table.run(list(numbers))

    def unpack_tokens(packed):
        ids = numerals.unpack_tokens(packed)
        return None if ids is None else _tokens(ids)

    def prompt_ids(body):
        found = bodies.prompt_ids(body)
        return None if found is None else (_tokens(found[0]), found[1], found[2])

    def _tokens(ids):
        tokens = array("I")
        tokens.frombytes(memoryview(ids).cast("B"))
        return tokens


__all__ = [
    "COMPILED",
    "Holding",
    "Iteration",
    "Table",
    "block_keys",
    "is_plain",
    "messages_end",
    "messages_start",
    "prompt_ids",
    "run",
    "unpack_hashes",
    "unpack_tokens",
    "usual_batch",
    "words",
]
