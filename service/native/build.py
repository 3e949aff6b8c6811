"""Compiles the modules of service/native, in place or into a folder: `python -m service.native.build [FOLDER]`.

Needs mypy, setuptools (service/native/requirements.lock), a C compiler and Python's headers.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

from service.native.sources import FOLDER, MODULES, record_digest


def build(into: Path = FOLDER) -> None:
    """Compiles all modules. On an error, mypyc or the compiler prints it and exits."""
    for module in MODULES:
        _compile(FOLDER / f"{module}.py", into)
    record_digest(into)


def _compile(source: Path, into: Path) -> None:
    # Compiled alone and outside its package: for several modules mypyc makes a shared library that must be on the path.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(source, folder)
        extensions = mypycify([source.name, "--config-file="], opt_level="3", debug_level="0", target_dir=folder)
        for extension in extensions:
            extension.extra_compile_args += ["-fwrapv"]  # hashes wrap around
        command = build_ext(Distribution({"name": source.stem, "ext_modules": extensions}))
        command.build_lib = command.build_temp = folder
        command.ensure_finalized()
        command.run()
        for made in map(Path, command.get_outputs()):
            shutil.copy(made, into / made.name)


if __name__ == "__main__":
    build(*(Path(argument).resolve() for argument in sys.argv[1:2]))
