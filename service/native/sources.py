"""The list of compiled modules, and a check that the binaries match the sources."""

from __future__ import annotations

import hashlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
MODULES = (
    "batches",
    "chat_shape",
    "group_writer",
    "hashing",
    "json_scan",
    "messages",
    "msgpack_ints",
    "pod_order",
    "rank_costs",
    "table",
    "vectors",
    "word_split",
)
DIGEST = "compiled.sha256"


def is_compiled() -> bool:
    """Whether all modules are compiled for this Python from the sources beside them.

    They require a little-endian machine.
    """
    if sys.byteorder != "little":
        return False
    if not all((FOLDER / f"{module}{EXTENSION_SUFFIXES[0]}").is_file() for module in MODULES):
        return False
    try:
        return (FOLDER / DIGEST).read_text(encoding="ascii") == _digest()
    except OSError:
        return False


def record_digest(folder: Path = FOLDER) -> None:
    """Records, beside the compiled modules, the digest of the sources that they were compiled from."""
    (folder / DIGEST).write_text(_digest(), encoding="ascii")


def _digest() -> str:
    digest = hashlib.sha256()
    for source in sorted([*FOLDER.glob("*.pyx"), *FOLDER.glob("*.pxd")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()
