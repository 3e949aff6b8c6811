"""An image whose inner loops come from a wheel: no compiler is installed while it is built."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand, Up

# The step that would install a compiler, and one that fails instead.
_INSTALLS = "command -v apt-get >/dev/null || exit 69;"
_FAILS = "exit 98;"


@pytest.fixture(scope="session")
def wheel(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout for this Python, which must be the image's."""
    of_image = running.runtime("exec", running.name, "python", "-c", "import sys; print(*sys.version_info[:2])")
    if of_image.split() != [str(number) for number in sys.version_info[:2]]:
        pytest.skip(f"the image has Python {of_image}")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "KVCACHE_BACKEND": "compiled"},
        check=True,
        capture_output=True,
    )
    (made,) = folder.glob("*.whl")
    return made


def _without_compiler(changed: Callable[[str, str], Up]) -> Up:
    """An `up` whose build fails where it would install a compiler, without wheels that a developer has."""
    up = changed(_INSTALLS, _FAILS)
    for lying in (up.kvcache.root / "wheels").glob("*.whl"):
        lying.unlink()
    return up


@pytest.mark.parametrize("place", ["named", "in wheels/"])
def test_a_wheel_that_fits_spares_the_image_a_compiler(
    changed: Callable[[str, str], Up], runtime: RuntimeCommand, wheel: Path, place: str
) -> None:
    up = _without_compiler(changed)
    named = ["--wheel", str(wheel)]
    if place != "named":
        named = []
        (up.kvcache.root / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
    image = f"{runtime.image}-wheel"
    try:
        done = up.start("-d", "--image", image, *named).finish(300)
        assert done.code == 0, done.output
        program = "from service.native.backend import COMPILED; print(COMPILED)"
        assert runtime("exec", up.name, "python", "-c", program) == "True"
        label = runtime("image", "inspect", "--format", '{{index .Config.Labels "io.kvcache.loops"}}', image)
        assert label == "compiled"
    finally:
        runtime("rm", "--force", up.name, check=False)
        runtime("rmi", "--force", image, check=False)


def test_a_wheel_for_another_python_is_refused_if_named_and_passed_over_if_not(
    changed: Callable[[str, str], Up], runtime: RuntimeCommand, wheel: Path, tmp_path: Path
) -> None:
    other = tmp_path / "kvcache-other.whl"
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(other, "w") as renamed:
        for name in whole.namelist():
            renamed.writestr(name.replace(".cpython-3", ".cpython-9"), whole.read(name))
    up = _without_compiler(changed)
    image = f"{runtime.image}-other"

    named = up.start("-d", "--image", image, "--wheel", str(other)).finish(400)
    assert named.code == 1
    assert f"Error: --wheel: {other} does not fit the base image" in named.output
    assert "none of the wheels has loops for Python" in named.output

    (up.kvcache.root / "wheels" / other.name).write_bytes(other.read_bytes())
    lying = up.start("-d", "--image", image).finish(400)
    assert "No wheel fits the base image; the inner loops are compiled" in lying.output
    assert lying.code == 1  # at the step that fails instead of installing a compiler
    assert up.left() == []
