"""Hatchling's build hook: a wheel holds the compiled loops of service/native, if there is a C compiler.

KVCACHE_BACKEND=compiled makes it an error if there is none, KVCACHE_BACKEND=fallback makes a wheel of plain Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileLoops(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What compiling needs: the packages of the extra `native`."""
        return [] if _backend() == "fallback" else list(self.metadata.core.optional_dependencies["native"])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the compiled modules to a wheel, and makes it one for this Python and machine alone."""
        if version == "editable" or _backend() == "fallback":
            return
        self._folder = tempfile.TemporaryDirectory()
        compiling = [sys.executable, "-m", "service.native.build", self._folder.name]
        done = subprocess.run(compiling, cwd=self.root, check=False, capture_output=True, text=True)
        if done.returncode:
            self.app.display_error((done.stdout + done.stderr).strip())
            if _backend() == "compiled":
                raise RuntimeError("the inner loops cannot be compiled, and KVCACHE_BACKEND=compiled requires it")
            self.app.display_warning("The inner loops cannot be compiled: the wheel holds plain Python, and is slower.")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for made in Path(self._folder.name).iterdir():
            build_data["force_include"][str(made)] = f"service/native/{made.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _backend() -> str:
    return os.environ.get("KVCACHE_BACKEND", "")
