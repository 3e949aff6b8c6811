"""The commands that show and study the service: their options; what they do is in the modules that they load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import options
from orchestrator.launch import DEFAULTS, Launch
from orchestrator.outcome import run_command

study = typer.Typer()

_Url = Annotated[str | None, typer.Option(envvar="KVCACHE_URL", help="Address of the service, instead of a name.")]
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


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
    runtime: options.Runtime = "auto",
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
    from orchestrator.commands.demo import Play
    from orchestrator.commands.demo import demo as play_demo

    def run() -> int:
        launch = Launch(
            runtime=options.runtime_kind(runtime),
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

    run_command(run, debug=debug)


@study.command()
def score(
    prompt: Annotated[str | None, typer.Argument(help="A text.")] = None,
    chat: Annotated[Path | None, typer.Option(help="A chat request in JSON, from a file or - instead.")] = None,
    model: Annotated[str | None, typer.Option(help="A model, or a LoRA; the service's own if left out.")] = None,
    lora_name: Annotated[str | None, typer.Option(help="The LoRA adapter that the request is for.")] = None,
    cache_salt: Annotated[str | None, typer.Option(help="What the engine salts the blocks with.")] = None,
    as_json: options.AsJson = False,
    name: options.Name = DEFAULTS.name,
    url: _Url = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Ask a running service how much of a prompt each pod has."""
    from orchestrator.commands.score import Question
    from orchestrator.commands.score import score as ask
    from orchestrator.running import find_running

    def run() -> None:
        body = Question(prompt, chat, model, lora_name, cache_salt).body()
        ask(find_running(name, url, options.runtime_kind(runtime)), body, as_json=as_json)

    run_command(run, debug=debug)


@study.command()
def top(
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many looks; in a pipe 1.")] = None,
    as_json: options.AsJson = False,
    name: options.Name = DEFAULTS.name,
    url: _Url = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Watch a running service's pods: blocks, events per second, lag, exact or not."""
    from orchestrator.commands.top import top as watch
    from orchestrator.running import find_running

    def run() -> None:
        running = find_running(name, url, options.runtime_kind(runtime))
        watch(running, interval=interval, count=count, as_json=as_json)

    run_command(run, debug=debug)


@study.command(context_settings=_PASSED_ON)
def record(context: typer.Context) -> None:
    """Write what engines publish to a file."""
    _run_tool(context)


@study.command(context_settings=_PASSED_ON)
def replay(context: typer.Context) -> None:
    """Publish a recording as its engines did."""
    _run_tool(context)


@study.command(context_settings=_PASSED_ON)
def offline(context: typer.Context) -> None:
    """Analyse a recording, or score prompts against it, without container and sockets."""
    _run_tool(context)


def _run_tool(context: typer.Context) -> None:
    from orchestrator.commands.tools import run_tool

    run_command(lambda: run_tool(str(context.info_name), context.args), debug=False)
