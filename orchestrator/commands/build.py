"""The image step of `kvcache up`: builds the image or keeps it, and says which."""

from __future__ import annotations

import os
from contextlib import closing

from orchestrator.commands.build_view import building
from orchestrator.console import Console
from orchestrator.errors import BuildFailed, Problem
from orchestrator.host.signals import Signals
from orchestrator.host.state import claim_build
from orchestrator.image import (
    Loops,
    Recipe,
    explained,
    image_build,
    loops_of_current_image,
    loops_without_compiler,
    must_build,
    no_wheel_fits,
    recipe,
    valkey_build,
    valkey_image,
    valkey_recipe,
)
from orchestrator.launch import Launch
from orchestrator.runtimes.base import CONTENT_LABEL, ImageBuild, Images

_SLOW = "The image's inner loops are not compiled, so the service is slower"


def ensure_image(launch: Launch, images: Images, console: Console, signals: Signals) -> None:
    """Builds or keeps the image as the launch's options require. Raises Problem."""
    if launch.build is False:
        if images.labels(launch.image) is None:
            raise Problem(
                f"There is no image {launch.image}, and --no-build forbids building it.", "Leave out --no-build."
            )
        console.step(f"Using image {launch.image} as it is (--no-build)")
        return
    wanted = recipe(launch, os.environ)
    loops = loops_of_current_image(images, launch.image, wanted)
    if must_build(launch, loops):
        if loops is Loops.FALLBACK_FOR_NOW:
            console.step(f"Image {launch.image} has no compiled loops yet, trying again")
        with claim_build() as is_alone:
            loops = _Build(launch, images, wanted, console, signals).run()
            if is_alone():  # the stages of a build that runs look like those of one that has ended
                images.remove_old_stages()
    else:
        console.step(f"Image {launch.image} is up to date, build skipped")
    if loops is Loops.FALLBACK:
        console.warn(
            f"{_SLOW}: the base image has no C compiler, and none can be installed.", "Use another --base-image."
        )
    elif loops is Loops.FALLBACK_FOR_NOW:
        console.warn(f"{_SLOW}: a C compiler could not be fetched.", "The next `kvcache up` tries again.")


def ensure_valkey(launch: Launch, images: Images, console: Console, signals: Signals) -> None:
    """Builds, fetches or keeps the image of the Valkey where replicas meet. Raises Problem."""
    reference = valkey_image(launch)
    labels = images.labels(reference)
    if launch.valkey_image:
        if labels is None or launch.pull:
            console.step(f"Fetching image {reference}...")
            images.pull(reference)
        return
    if launch.build is False:
        if labels is None:
            raise Problem(
                f"There is no image {reference}, and --no-build forbids building it.",
                "Leave out --no-build, or name one: --valkey-image",
            )
        return
    wanted = valkey_recipe(launch, os.environ)
    if labels is not None and labels.get(CONTENT_LABEL) == wanted.content and not (launch.build or launch.pull):
        console.step(f"Image {reference} is up to date, build skipped")
        return
    with claim_build() as is_alone:
        _Build(launch, images, wanted, console, signals).once(valkey_build(launch, wanted))
        if is_alone():
            images.remove_old_stages()


class _Build:
    """Builds of one recipe."""

    def __init__(self, launch: Launch, images: Images, wanted: Recipe, console: Console, signals: Signals) -> None:
        self._launch = launch
        self._images = images
        self._wanted = wanted
        self._console = console
        self._signals = signals

    def run(self) -> Loops:
        """Builds with the compiled loops of a wheel if there is one, else with a compiler, else without."""
        try:
            self._compiled()
        except BuildFailed as failure:
            fallback = loops_without_compiler(failure)
            if fallback is None:
                raise
            self._console.warn("The inner loops could not be compiled.", "The image is built without them.")
            self._with(fallback)
            return fallback
        return Loops.COMPILED

    def _compiled(self) -> None:
        pull = self._launch.pull
        if self._wanted.has_wheels:
            try:
                self._with(Loops.COMPILED, wheels=True, pull=pull)
            except BuildFailed as failure:
                if self._launch.wheel or not no_wheel_fits(failure):
                    raise
                self._console.step("No wheel fits the base image; the inner loops are compiled")
                pull = False
            else:
                return
        self._with(Loops.COMPILED, pull=pull)

    def _with(self, loops: Loops, *, wheels: bool = False, pull: bool = False) -> None:
        self.once(image_build(self._launch, self._wanted, loops, wheels=wheels, pull=pull))

    def once(self, build: ImageBuild) -> None:
        """Builds and says each step. Raises BuildFailed with the base image as the reason, if it is."""
        with building(self._console, build.reference, self._wanted.steps) as view:
            try:
                with closing(self._images.build(build)) as output:
                    for line in output:
                        view.said(line)
                        self._signals.check()
            except BuildFailed as failure:
                fetches_base, last_lines = view.fetches_base, view.last_lines
                raise explained(failure, self._launch, fetches_base=fetches_base, last_lines=last_lines) from failure
        view.done(build.reference)
