"""Takes the compiled modules out of a wheel of kvcache: `python -m service.native.wheels FOLDER`.

FOLDER holds wheels for any Python and machine. Exit code 1 if none has modules that this Python loads and that were
compiled from the sources here.
"""

from __future__ import annotations

import importlib
import platform
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from service.native.sources import DIGEST, FOLDER, MODULES, is_compiled

_IN_WHEEL = "service/native/"


def take_compiled(wheels: Path) -> Path | None:
    """Unpacks the modules of the first wheel that fits, and returns the wheel; None if none fits."""
    return next((wheel for wheel in sorted(wheels.glob("*.whl")) if _take(wheel)), None)


def _take(wheel: Path) -> bool:
    made = [FOLDER / f"{module}{EXTENSION_SUFFIXES[0]}" for module in MODULES] + [FOLDER / DIGEST]
    try:
        with zipfile.ZipFile(wheel) as archive:
            for path in made:
                path.write_bytes(archive.read(_IN_WHEEL + path.name))
        # A module that needs a newer C library than there is here fails only when it is loaded.
        if is_compiled() and all(importlib.import_module(f"service.native.{module}") for module in MODULES):
            return True
    except (KeyError, zipfile.BadZipFile, ImportError):
        pass
    for path in made:
        path.unlink(missing_ok=True)
    return False


if __name__ == "__main__":
    taken = take_compiled(Path(sys.argv[1]))
    if taken is None:
        python = f"Python {platform.python_version()} on {platform.machine()} ({EXTENSION_SUFFIXES[0]})"
        sys.exit(f"none of the wheels has loops for {python}, compiled from these sources")
    print(f"loops of {taken.name}")  # noqa: T201 - shown in the output of the build
