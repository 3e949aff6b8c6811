from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from service.native.sources import DIGEST, FOLDER, MODULES, is_compiled


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """service/native alone, not compiled, as it lies in the image while that is built."""
    shutil.copytree(FOLDER, tmp_path / "service" / "native", ignore=shutil.ignore_patterns("*.so", "*.sha256", "__*__"))
    (tmp_path / "service" / "__init__.py").touch()  # found before the checkout's package
    return tmp_path


def _take(sources: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.native.wheels", str(wheels)]
    return subprocess.run(command, cwd=sources, check=False, capture_output=True, text=True)


def _wheel(path: Path, binary: bytes | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*(f"{module}{EXTENSION_SUFFIXES[0]}" for module in MODULES), DIGEST):
            data = (FOLDER / name).read_bytes() if binary is None else binary
            archive.writestr(f"service/native/{name}", data)


@pytest.mark.skipif(not is_compiled(), reason="nothing is compiled here")
def test_the_loops_of_the_wheel_that_fits_are_taken(sources: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a.whl").write_text("no archive")
    with zipfile.ZipFile(wheels / "b.whl", "w") as archive:
        archive.writestr("service/native/table.cpython-99-x86_64-linux-gnu.so", b"")
    _wheel(wheels / "c.whl")
    done = _take(sources, wheels)
    assert (done.returncode, done.stdout) == (0, "loops of c.whl\n"), done.stderr
    assert len(list((sources / "service" / "native").glob("*.so"))) == len(MODULES)


@pytest.mark.parametrize("binary", [b"no library", None])
def test_without_one_that_fits_nothing_is_left_and_the_python_is_named(
    sources: Path, tmp_path: Path, binary: bytes | None
) -> None:
    if binary is not None:
        _wheel(tmp_path / "a.whl", binary)
    done = _take(sources, tmp_path)
    assert done.returncode == 1
    assert f"none of the wheels has loops for Python {sys.version.split()[0]} on " in done.stderr
    assert not [*(sources / "service" / "native").glob("*.so"), *(sources / "service" / "native").glob("*.sha256")]
