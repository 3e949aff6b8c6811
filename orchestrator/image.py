"""The image: its build context, whether it is up to date, and the meaning of its build's exit codes."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path, PurePosixPath

from orchestrator.errors import BuildFailed, Problem
from orchestrator.launch import Launch
from orchestrator.proxies import PROXY_VARIABLES, on_loopback, proxies
from orchestrator.runtimes.base import CONTENT_LABEL, LOOPS_LABEL, ImageBuild, Images

_PACKAGE = Path(__file__).resolve().parent
_PACKAGE_INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_WHEELS = "wheels"
_NATIVE = "service/native/"
_MADE_HERE = (".so", ".sha256")
"""Files compiled for this machine's Python; the image compiles its own."""
_STEP = re.compile(
    r"(?P<stage>\[\d+/\d+\] )?STEP (?P<number>\d+)/(?P<total>\d+)\s?: (?P<instruction>.*)", re.IGNORECASE
)
_LABELS_OF_A_BUILD = 4
"""The hash of the recipe, whether the loops are compiled, the base image, and the version."""
_INSTRUCTION = re.compile(r"(?:FROM|ARG|LABEL|COPY|RUN|ENV|WORKDIR|USER|EXPOSE|STOPSIGNAL|HEALTHCHECK|ENTRYPOINT)\b")


@dataclass(frozen=True)
class Recipe:
    """All inputs of an image: the files of its build context by path, and build arguments."""

    files: Mapping[str, bytes]
    arguments: Mapping[str, str]
    has_wheels: bool = False
    """Whether wheels with compiled loops are among the files."""
    unhashed_certificates: bytes = b""
    """Certificates that this machine trusts anyway; unhashed, so that SSL_CERT_FILE does not change the recipe."""

    @property
    def content(self) -> str:
        """A hash of files, base image and arguments; equal for equal recipes on any machine."""
        digest = hashlib.sha256(json.dumps(sorted(self.arguments.items())).encode())
        for path, data in sorted(self.files.items()):
            digest.update(f"\0{path}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    @property
    def steps(self) -> int:
        """Number of build steps, for a runtime that does not count them (an ARG before the first FROM is no step)."""
        logical_lines = self.files["Containerfile"].decode().replace("\\\n", " ").splitlines()
        instructions = [match[0] for line in logical_lines if (match := _INSTRUCTION.match(line))]
        return len(instructions) - instructions.index("FROM") + _LABELS_OF_A_BUILD

    def archive(self) -> bytes:
        """The build context as a tar archive without times and owners, which keeps the layer cache valid."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            host = {"certificates/host.crt": self.unhashed_certificates} if self.unhashed_certificates else {}
            for path, data in sorted({**self.files, **host}.items()):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


class Loops(StrEnum):
    """Whether the image's inner loops are compiled; the value of its label."""

    COMPILED = "compiled"
    FALLBACK = "fallback"
    """The loops cannot be compiled on this base image."""
    FALLBACK_FOR_NOW = "fallback-for-now"
    """The compilation failed for a temporary reason: the next build tries again."""


_CANNOT_COMPILE = {69: Loops.FALLBACK, 70: Loops.FALLBACK, 75: Loops.FALLBACK_FOR_NOW}
_NO_WHEEL_FITS = 84
_NO_VALKEY = 85
_UNUSABLE_BASE = {
    81: "has no python3",
    82: "has a Python older than 3.11",
    83: "has a Python without venv (on Debian and Ubuntu it is the package python3-venv)",
}


def recipe(launch: Launch, environment: Mapping[str, str]) -> Recipe:
    """The image of this launch; `environment` is this host's, for proxies and package indexes. Raises Problem."""
    containerfile, service = _sources()
    files = {"Containerfile": containerfile.read_bytes(), f"{_WHEELS}/.keep": b""}
    for path in service.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in _MADE_HERE:
            files[f"service/{path.relative_to(service).as_posix()}"] = path.read_bytes()
    wheels = matching_wheels(launch.wheel or containerfile.parent / _WHEELS, files, named=launch.wheel is not None)
    return _recipe(launch, {**files, **wheels}, environment, has_wheels=bool(wheels))


def valkey_image(launch: Launch) -> str:
    """The image of the Valkey where the launch's replicas meet."""
    return launch.valkey_image or f"{launch.image}-valkey"


def valkey_recipe(launch: Launch, environment: Mapping[str, str]) -> Recipe:
    """The image of a Valkey that needs no registry but the base image's, as the service's own. Raises Problem."""
    files = {path.name: path.read_bytes() for path in (_PACKAGE / "valkey").iterdir()}
    return _recipe(launch, files, environment)


def _recipe(
    launch: Launch, files: Mapping[str, bytes], environment: Mapping[str, str], *, has_wheels: bool = False
) -> Recipe:
    indexes = {name: environment[name] for name in _PACKAGE_INDEXES if environment.get(name)}
    named = launch.ca_bundle
    return Recipe(
        {**files, "certificates/extra.crt": _certificates(named) if named else b""},
        {"BASE_IMAGE": launch.base_image, **proxies(environment), **indexes},
        has_wheels,
        b"" if named else _own_certificates(environment),
    )


def matching_wheels(place: Path, files: Mapping[str, bytes], *, named: bool) -> dict[str, bytes]:
    """The wheels in a folder, or one wheel, whose compiled loops were made from these files, by path in the context.

    Raises Problem if the place was `named` by the operator and has none.
    """
    wheels = [place] if place.is_file() else sorted(place.glob("*.whl"))
    refusals = {wheel: refusal for wheel in wheels if (refusal := _refusal(wheel, files))}
    if named and len(refusals) == len(wheels):
        raise Problem(
            f"--wheel: {place} holds no wheel." if not wheels else f"--wheel: {wheels[0]} {refusals[wheels[0]]}.",
            "Make one from this version: pip wheel --no-deps --wheel-dir wheels . ; or leave --wheel out.",
        )
    return {f"{_WHEELS}/{wheel.name}": wheel.read_bytes() for wheel in wheels if wheel not in refusals}


def _refusal(wheel: Path, files: Mapping[str, bytes]) -> str | None:
    """The reason why the compiled loops of a wheel cannot be used with these files of the service."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            sources = [name for name in archive.namelist() if PurePosixPath(name).match(f"{_NATIVE}*.p[yx]*")]
            if not any(PurePosixPath(name).match(f"{_NATIVE}*.so") for name in archive.namelist()):
                return "has no compiled loops"
            if any(archive.read(name) != files.get(name) for name in sources):
                return "was made from other sources than these"
    except (OSError, zipfile.BadZipFile) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return None


def loops_of_current_image(images: Images, reference: str, wanted: Recipe) -> Loops | None:
    """How the loops of the image were built; None if there is no image of this recipe."""
    labels = images.labels(reference) or {}
    if labels.get(CONTENT_LABEL) != wanted.content:
        return None
    return next((loops for loops in Loops if loops == labels.get(LOOPS_LABEL)), None)


def must_build(launch: Launch, current: Loops | None) -> bool:
    """Whether `up` builds: no image of the recipe, an option asks for it, or a compiler may be had this time."""
    return current in (None, Loops.FALLBACK_FOR_NOW) or bool(launch.build) or launch.pull


def image_build(
    launch: Launch, wanted: Recipe, loops: Loops, *, wheels: bool = False, pull: bool = False
) -> ImageBuild:
    """A build with these loops; with `wheels`, the compiled ones are those of a wheel."""
    source = "fallback" if loops is not Loops.COMPILED else "wheel" if wheels else "compiled"
    return _build(launch, wanted, launch.image, {"LOOPS": source}, {LOOPS_LABEL: loops}, pull=pull)


def valkey_build(launch: Launch, wanted: Recipe) -> ImageBuild:
    """A build of `valkey_recipe`."""
    return _build(launch, wanted, valkey_image(launch), {}, {}, pull=launch.pull)


def _build(
    launch: Launch,
    wanted: Recipe,
    reference: str,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    pull: bool,
) -> ImageBuild:
    return ImageBuild(
        reference=reference,
        context=wanted.archive(),
        arguments={**wanted.arguments, **arguments},
        labels={CONTENT_LABEL: wanted.content, **labels, **_provenance(launch)},
        pull=pull,
        host_network=any(on_loopback(wanted.arguments.get(name, "")) for name in PROXY_VARIABLES),
    )


def _provenance(launch: Launch) -> dict[str, str]:
    """The labels that depend on the build; Containerfile has the others of the OCI's annotations."""
    base = {"org.opencontainers.image.base.name": launch.base_image}
    try:
        return {**base, "org.opencontainers.image.version": metadata.version("kvcache")}
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return base


def loops_without_compiler(failure: BuildFailed) -> Loops | None:
    """The label of the fallback build after a failed one; None if the failure has another reason than the compiler."""
    return _CANNOT_COMPILE.get(failure.exit_code or 0)


def no_wheel_fits(failure: BuildFailed) -> bool:
    """Whether a build failed since no wheel has loops for the base image's Python."""
    return failure.exit_code == _NO_WHEEL_FITS


def explained(failure: BuildFailed, launch: Launch, *, fetches_base: bool, last_lines: tuple[str, ...]) -> BuildFailed:
    """The failure as a message that names the base image, if that is the cause."""
    code = failure.exit_code
    what, remedy = failure.what, failure.remedy
    if code in _UNUSABLE_BASE:
        what = f"The base image {launch.base_image} {_UNUSABLE_BASE[code]}."
        remedy = "Name one with Python 3.11 or newer and its venv: --base-image"
    elif no_wheel_fits(failure):
        what = f"--wheel: {launch.wheel} does not fit the base image {launch.base_image}."
        remedy = "Name a wheel, or a folder with one, for the Python in the line above; or leave --wheel out."
    elif code == _NO_VALKEY:
        what = f"No Valkey can be had for the base image {launch.base_image}."
        remedy = (
            "Name an image of one: --valkey-image docker.io/valkey/valkey:9; or one that runs: --env SHARED_STATE=…"
        )
    elif fetches_base:
        what = f"The base image {launch.base_image} cannot be fetched. {failure.what}"
        remedy = (
            "Run without a container: --runtime process; or name a base image that can be fetched, with Python 3.11 or "
            "newer: --base-image."
        )
    return BuildFailed(what, remedy, last_lines, code)


@dataclass(frozen=True, slots=True)
class Step:
    """A build step. `number` is None in Podman, which counts each stage separately."""

    instruction: str
    number: int | None
    total: int | None


def step_of(line: str) -> Step | None:
    """The step that this line of build output (Docker's classic builder, Podman) starts; None for any other line."""
    match = _STEP.match(line)
    if match is None:
        return None
    instruction = " ".join(match["instruction"].split())
    if match["stage"]:
        return Step(instruction, None, None)
    return Step(instruction, int(match["number"]), int(match["total"]))


def _sources() -> tuple[Path, Path]:
    """Finds the Containerfile and the service's package: in a checkout, or in an installation."""
    service = _PACKAGE.parent / "service"
    for containerfile in (_PACKAGE / "context" / "Containerfile", _PACKAGE.parent / "Containerfile"):
        if containerfile.is_file() and service.is_dir():
            return containerfile, service
    raise Problem(
        f"Files that the image is built from are missing beside {_PACKAGE}.",
        "Install kvcache again, or use its checkout.",
    )


def _certificates(bundle: Path) -> bytes:
    try:
        data = bundle.read_bytes()
    except OSError as error:
        raise Problem(f"--ca-bundle: {bundle} cannot be read: {error.strerror}.", "Name a readable file.") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise Problem(f"--ca-bundle: {bundle} holds no certificate in PEM form.", "Name a file with one or more.")
    return data


def _own_certificates(environment: Mapping[str, str]) -> bytes:
    """The certificates in SSL_CERT_FILE (for an intercepting proxy); none if the file cannot be read."""
    try:
        return Path(environment["SSL_CERT_FILE"]).read_bytes()
    except (KeyError, OSError):
        return b""
