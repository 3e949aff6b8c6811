"""The image: what goes into it, by what it is known to be up to date, and its build."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.launch import Launch
from orchestrator.runtimes.base import CONTENT_LABEL, ImageBuild, Images
from orchestrator.workload import proxies

_PACKAGE = Path(__file__).resolve().parent
_PACKAGE_INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_MADE_HERE = (".so", ".sha256")
"""Files of what was compiled for this machine's Python; the image compiles its own."""
_STEP = re.compile(
    r"(?P<stage>\[\d+/\d+\] )?STEP (?P<number>\d+)/(?P<total>\d+)\s?: (?P<instruction>.*)", re.IGNORECASE
)
_INSTRUCTION = re.compile(r"(?:FROM|ARG|COPY|RUN|ENV|WORKDIR|USER|EXPOSE|STOPSIGNAL|HEALTHCHECK|ENTRYPOINT)\b")


@dataclass(frozen=True)
class Recipe:
    """All that decides what an image holds: the files of its build context by their path in it, and build arguments."""

    files: Mapping[str, bytes]
    arguments: Mapping[str, str]

    @property
    def content(self) -> str:
        """A hash over files, base image and arguments; the same for the same recipe on any machine."""
        digest = hashlib.sha256(json.dumps(sorted(self.arguments.items())).encode())
        for path, data in sorted(self.files.items()):
            digest.update(f"\0{path}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    @property
    def steps(self) -> int:
        """How many steps a build takes where the runtime does not count them (an ARG before the first FROM is none)."""
        logical_lines = self.files["Containerfile"].decode().replace("\\\n", " ").splitlines()
        instructions = [match[0] for line in logical_lines if (match := _INSTRUCTION.match(line))]
        return len(instructions) - instructions.index("FROM") + 1  # the label that says what it was built from

    def archive(self) -> bytes:
        """The build context as a tar archive, without times and owners, so that layers are found again."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


def recipe(launch: Launch, environment: Mapping[str, str]) -> Recipe:
    """The image of this launch; `environment` is this host's, for proxies and package indexes. Raises Problem."""
    containerfile, service = _sources()
    files = {"Containerfile": containerfile.read_bytes(), "certificates/extra.crt": _certificates(launch.ca_bundle)}
    for path in service.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in _MADE_HERE:
            files[f"service/{path.relative_to(service).as_posix()}"] = path.read_bytes()
    indexes = {name: environment[name] for name in _PACKAGE_INDEXES if environment.get(name)}
    return Recipe(files, {"BASE_IMAGE": launch.base_image, **proxies(environment), **indexes})


def is_up_to_date(images: Images, reference: str, wanted: Recipe) -> bool:
    """Whether the image is there and was built from this recipe."""
    return (images.labels(reference) or {}).get(CONTENT_LABEL) == wanted.content


def image_build(launch: Launch, wanted: Recipe) -> ImageBuild:
    return ImageBuild(
        reference=launch.image,
        context=wanted.archive(),
        arguments=wanted.arguments,
        labels={CONTENT_LABEL: wanted.content},
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a build begins. Podman counts anew in each stage: then there is no number over all."""

    instruction: str
    number: int | None
    total: int | None


def step_of(line: str) -> Step | None:
    """The step that a line of a build's output (Docker's classic builder, Podman) begins; None for any other line."""
    match = _STEP.match(line)
    if match is None:
        return None
    instruction = " ".join(match["instruction"].split())
    if match["stage"]:
        return Step(instruction, None, None)
    return Step(instruction, int(match["number"]), int(match["total"]))


def _sources() -> tuple[Path, Path]:
    """The Containerfile and the service's package: beside us in a checkout, inside us and beside us when installed."""
    service = _PACKAGE.parent / "service"
    for containerfile in (_PACKAGE / "context" / "Containerfile", _PACKAGE.parent / "Containerfile"):
        if containerfile.is_file() and service.is_dir():
            return containerfile, service
    raise Problem(
        f"What the image is built from is missing beside {_PACKAGE}.", "Install kvcache again, or use its checkout."
    )


def _certificates(bundle: Path | None) -> bytes:
    if bundle is None:
        return b""
    try:
        data = bundle.read_bytes()
    except OSError as error:
        raise Problem(f"--ca-bundle: {bundle} cannot be read: {error.strerror}.", "Name a readable file.") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise Problem(f"--ca-bundle: {bundle} holds no certificate in PEM form.", "Name a file with one or more.")
    return data
