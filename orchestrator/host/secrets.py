"""Files by which a service gets what must not stand in its environment or command line."""

from __future__ import annotations

from pathlib import Path


def write_secret(folder: Path, name: str, text: str) -> Path:
    """Writes a file that any user may read into a folder that only this user can enter.

    Mounted by itself it can be read by the container's user, whose uid is another, while nobody else reaches it.
    """
    path = folder / name
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)
    return path
