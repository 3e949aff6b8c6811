"""The `kvcache` command: its subcommands and exit codes (0 done, 1 could not, 2 wrong usage)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from orchestrator import options
from orchestrator.errors import Problem, UsageError
from orchestrator.launch import DEFAULT_BASE_IMAGE, DEFAULT_NAME

app = typer.Typer(
    name="kvcache",
    help="Tells which LLM engine already holds the longest prefix of a prompt in its KV cache.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def up(
    engine: options.Engine = "auto",
    name: options.Name = DEFAULT_NAME,
    port: options.Port = 8080,
    publish_address: options.PublishAddress = "127.0.0.1",
    image: options.Image = DEFAULT_NAME,
    base_image: options.BaseImage = DEFAULT_BASE_IMAGE,
    ca_bundle: options.CaBundle = None,
    build: options.Build = None,
    model: options.Model = "ibm-granite/granite-3.3-2b-instruct",
    models_dir: options.ModelsDir = None,
    hf_cache: options.HfCache = None,
    zmq_endpoint: options.ZmqEndpoint = "tcp://localhost:5557",
    zmq_topic: options.ZmqTopic = "kv@",
    pool_concurrency: options.PoolConcurrency = 4,
    block_size: options.BlockSize = 256,
    env: options.Environment = None,
    cpus: options.Cpus = None,
    memory: options.Memory = None,
    timeout: options.Timeout = 30.0,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Build the image if it changed, run the service, and remove it on Ctrl+C.

    A token for the hub is taken from HF_TOKEN, or from where huggingface_hub keeps it.
    """
    from orchestrator.console import Console
    from orchestrator.hub_token import find_token
    from orchestrator.launch import Launch, parse_environment, parse_memory
    from orchestrator.lifecycle import up as bring_up

    def run() -> None:
        launch = Launch(
            engine=options.engine_kind(engine),
            name=name,
            image=image,
            base_image=base_image,
            port=port,
            publish_address=publish_address,
            model=model,
            models_dir=models_dir,
            hf_cache=hf_cache,
            zmq_endpoint=zmq_endpoint,
            zmq_topic=zmq_topic,
            pool_concurrency=pool_concurrency,
            block_size=block_size,
            environment=parse_environment(env or (), os.environ),
            ca_bundle=ca_bundle,
            build=build,
            timeout=timeout,
            cpus=cpus,
            memory=parse_memory(memory) if memory else None,
            detach=detach,
            token=find_token(os.environ),
        )
        bring_up(launch, Console(quiet=quiet))

    _end(run, debug)


@app.command()
def down(
    name: options.Name = DEFAULT_NAME,
    every: Annotated[bool, typer.Option("--all", help="Remove all services, whatever their names.")] = False,
    engine: options.OneEngine = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Stop and remove the service. Nothing to do is no error."""
    from orchestrator.console import Console
    from orchestrator.lifecycle import down as bring_down

    _end(lambda: bring_down(name, options.engine_kind(engine), Console(quiet=quiet), every=every), debug)


@app.command()
def logs(
    name: options.Name = DEFAULT_NAME,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it stops, or Ctrl+C.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines since then: 10m, 2h, or 2025-01-31T12:00:00Z.")
    ] = None,
    engine: options.OneEngine = "auto",
    debug: options.Debug = False,
) -> None:
    """Show what the service wrote."""
    from orchestrator.console import Console
    from orchestrator.engines.base import LogQuery
    from orchestrator.logs import parse_moment, show_logs

    def run() -> None:
        query = LogQuery(tail=tail, since=parse_moment(since) if since else None, follow=follow)
        show_logs(name, options.engine_kind(engine), query, Console())

    _end(run, debug)


@app.command()
def status(
    as_json: options.AsJson = False,
    engine: options.OneEngine = "auto",
    debug: options.Debug = False,
) -> None:
    """Show every service: where it runs, how it is, what it reports. Exit code 1 if there is none."""
    from orchestrator.status import show_status

    _end(lambda: show_status(options.engine_kind(engine), as_json=as_json), debug)


def _end(run: Callable[[], None], debug: bool) -> None:
    """Runs a command and turns its problem into two lines and an exit code."""
    try:
        run()
    except Problem as problem:
        if debug:
            raise
        from orchestrator.console import Console

        Console().problem(problem)
        raise typer.Exit(2 if isinstance(problem, UsageError) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    app()
