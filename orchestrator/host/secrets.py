"""Files that pass secrets to a service outside of its environment and command line."""

from __future__ import annotations

from pathlib import Path


def write_secret(folder: Path, name: str, text: str) -> Path:
    """Writes a file with mode "readable by all" into a folder that only this user can enter.

    The container's user, which has another uid, can read the mounted file; other users of the host cannot reach it.
    """
    path = folder / name
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)
    return path
