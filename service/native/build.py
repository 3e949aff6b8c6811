"""Compiles the modules of service/native, in place or into a folder: `python -m service.native.build [FOLDER]`.

Needs Cython, setuptools (service/native/requirements.lock), a C compiler and Python's headers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

from service.native.sources import FOLDER, MODULES, record_digest

_DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,  # the modules check what comes from outside themselves
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}


def build(into: Path = FOLDER) -> None:
    """Compiles all modules. On an error, Cython or the compiler prints it and exits."""
    package = Path(*__package__.split("."))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(FOLDER.parents[len(package.parts) - 1]):
        extensions = cythonize(
            [
                Extension(
                    f"{__package__}.{module}", [str(package / f"{module}.pyx")], extra_compile_args=["-O3", "-g0"]
                )
                for module in MODULES
            ],
            build_dir=folder,
            compiler_directives=_DIRECTIVES,
            quiet=True,
        )
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib = command.build_temp = folder
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()
        for made in map(Path, command.get_outputs()):
            # Written beside and renamed: processes may run the former one.
            beside = into / f".{made.name}.{os.getpid()}"
            shutil.copy(made, beside)
            beside.replace(into / made.name)
    record_digest(into)


if __name__ == "__main__":
    build(*(Path(argument).resolve() for argument in sys.argv[1:2]))
