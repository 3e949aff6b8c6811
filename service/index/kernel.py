"""The innermost loops of the index: compiled where service/native was built, plain Python otherwise.

KVCACHE_KERNEL=plain leaves alone what was compiled.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING


def _is_compiled() -> bool:
    """Whether there is a compiled module, made from the source that lies beside it."""
    if os.environ.get("KVCACHE_KERNEL") == "plain":
        return False
    found = find_spec("service.native.kernel")
    if found is None or found.origin is None or not found.origin.endswith(tuple(EXTENSION_SUFFIXES)):
        return False
    folder = Path(found.origin).parent
    try:
        built = (folder / "kernel.built").read_text(encoding="ascii")
        return built == hashlib.sha256((folder / "kernel.py").read_bytes()).hexdigest()
    except OSError:
        return False


COMPILED = _is_compiled()

if TYPE_CHECKING or not COMPILED:
    from service.index.plain import Holding, Table, block_keys, prompt_ids, run, unpack_hashes, unpack_tokens
else:
    from service.native import kernel as _compiled
    from service.native.kernel import Holding, Table, block_keys, unpack_hashes

    _Run = type(_compiled.run([]))

    def run(numbers):
        return numbers if type(numbers) is _Run else _compiled.run(list(numbers))

    def unpack_tokens(packed):
        ids = _compiled.unpack_tokens(packed)
        return None if ids is None else _tokens(ids)

    def prompt_ids(body):
        found = _compiled.prompt_ids(body)
        return None if found is None else (_tokens(found[0]), found[1], found[2])

    def _tokens(ids):
        tokens = array("I")
        tokens.frombytes(memoryview(ids).cast("B"))
        return tokens


__all__ = ["COMPILED", "Holding", "Table", "block_keys", "prompt_ids", "run", "unpack_hashes", "unpack_tokens"]
