"""Compiles service/native/kernel.py in its place: `python -m service.native.build`.

Needs mypy, setuptools (service/native/requirements.lock), a C compiler and Python's headers.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

_HERE = Path(__file__).resolve().parent
_SOURCE = _HERE / "kernel.py"
_DIGEST = _HERE / "kernel.built"  # of the source that was compiled: service/index/kernel.py leaves a stale one alone


def build() -> Path:
    """Gives the compiled module's file; whatever compiler or mypyc find wrong, they say and end with."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # Outside its package, since mypyc puts a second library on the path for a module inside one.
        shutil.copy(_SOURCE, folder)
        extensions = mypycify(["kernel.py", "--config-file="], opt_level="3", debug_level="0", target_dir=folder)
        for extension in extensions:
            extension.extra_compile_args += ["-fwrapv"]  # hashes wrap around
        command = build_ext(Distribution({"name": "kernel", "ext_modules": extensions}))
        command.build_lib = command.build_temp = folder
        command.ensure_finalized()
        command.run()
        (made,) = map(Path, command.get_outputs())
        _DIGEST.write_text(hashlib.sha256(_SOURCE.read_bytes()).hexdigest(), encoding="ascii")
        return Path(shutil.copy(made, _HERE / made.name))


if __name__ == "__main__":
    print(build().name, file=sys.stderr)  # noqa: T201
