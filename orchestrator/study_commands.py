"""The commands that show and study the service: their options; what they do is in the modules that they load."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator import options
from orchestrator.launch import DEFAULTS, Launch
from orchestrator.outcome import end

study = typer.Typer()


@study.command()
def demo(
    pods: Annotated[int, typer.Option(min=1, max=64, help="Simulated engines.")] = 3,
    blocks: Annotated[int, typer.Option(min=2, help="Blocks of each engine's cache.")] = 256,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 16,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal conversations.")] = 7,
    requests: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", show_default="300")] = None,
    duration: Annotated[str | None, typer.Option(metavar="TIME", help="Stop after that time, such as 60s.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Requests per second.",
            show_default="20 to look at, else as fast as it goes",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave all up until Ctrl+C, to play with.")] = False,
    as_json: options.AsJson = False,
    engine: options.Engine = "auto",
    name: Annotated[str, typer.Option(help="Name of the container or process.")] = "kvcache-demo",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Port of the HTTP endpoints; 0: any.")
    ] = 0,
    image: options.Image = DEFAULTS.image,
    base_image: options.BaseImage = DEFAULTS.base_image,
    ca_bundle: options.CaBundle = None,
    build: options.Build = None,
    timeout: options.Timeout = DEFAULTS.timeout,
    debug: options.Debug = False,
) -> None:
    """See it work: simulated engines, conversations, and what routing by cache is worth. Needs no GPU and no hub.

    Exit code 1 when a prediction of the service differed from what an engine did.
    """
    from orchestrator.demo import Play
    from orchestrator.demo import demo as play_demo

    def run() -> int:
        launch = Launch(
            engine=options.engine_kind(engine),
            name=name,
            image=image,
            base_image=base_image,
            port=port,
            ca_bundle=ca_bundle,
            build=build,
            timeout=timeout,
        )
        play = Play(pods, blocks, block_size, seed, requests, options.seconds(duration), rate, keep, as_json)
        return play_demo(launch, play)

    end(run, debug=debug)
