"""The `kvcache` command: its subcommands and exit codes (0 done, 1 could not, 2 wrong usage)."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from orchestrator import options
from orchestrator.launch import DEFAULTS, Launch
from orchestrator.outcome import run_command
from orchestrator.study_commands import study

app = typer.Typer(
    name="kvcache",
    help="Tells which LLM engine already holds the longest prefix of a prompt in its KV cache.",
    no_args_is_help=True,
    rich_markup_mode=None,  # loading Rich to draw boxes takes twice as long as all else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def up(
    runtime: options.Runtime = "auto",
    name: options.Name = DEFAULTS.name,
    port: options.Port = DEFAULTS.port,
    publish_address: options.PublishAddress = DEFAULTS.publish_address,
    image: options.Image = DEFAULTS.image,
    base_image: options.BaseImage = DEFAULTS.base_image,
    ca_bundle: options.CaBundle = None,
    build: options.Build = None,
    model: options.Model = DEFAULTS.model,
    models_dir: options.ModelsDir = None,
    hf_cache: options.HfCache = None,
    hf_endpoint: options.HfEndpoint = DEFAULTS.hf_endpoint,
    zmq_endpoint: options.ZmqEndpoint = DEFAULTS.zmq_endpoint,
    zmq_topic: options.ZmqTopic = DEFAULTS.zmq_topic,
    pool_concurrency: options.PoolConcurrency = DEFAULTS.pool_concurrency,
    block_size: options.BlockSize = DEFAULTS.block_size,
    env: options.Environment = None,
    cpus: options.Cpus = None,
    memory: options.Memory = None,
    timeout: options.Timeout = DEFAULTS.timeout,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Build the image if it changed, run the service, and remove it on Ctrl+C.

    A token for the hub is taken from HF_TOKEN, or from where huggingface_hub keeps it.
    """
    from orchestrator.commands.up import up as bring_up
    from orchestrator.console import Console
    from orchestrator.host.hub_token import find_token
    from orchestrator.launch import parse_environment, parse_memory

    def run() -> None:
        launch = Launch(
            runtime=options.runtime_kind(runtime),
            name=name,
            image=image,
            base_image=base_image,
            port=port,
            publish_address=publish_address,
            model=model,
            models_dir=models_dir,
            hf_cache=hf_cache,
            hf_endpoint=hf_endpoint,
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

    run_command(run, debug=debug)


@app.command()
def down(
    name: options.Name = DEFAULTS.name,
    every: Annotated[bool, typer.Option("--all", help="Remove all services, whatever their names.")] = False,
    runtime: options.OneRuntime = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Stop and remove the service. Nothing to do is no error."""
    from orchestrator.commands.up import down as bring_down
    from orchestrator.console import Console

    run_command(lambda: bring_down(name, options.runtime_kind(runtime), Console(quiet=quiet), every=every), debug=debug)


@app.command()
def logs(
    name: options.Name = DEFAULTS.name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it stops, or Ctrl+C.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines since then: 10m, 2h, or 2025-01-31T12:00:00Z.")
    ] = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Show what the service wrote."""
    from orchestrator.commands.logs import parse_moment, show_logs
    from orchestrator.console import Console
    from orchestrator.runtimes.base import LogQuery

    def run() -> None:
        query = LogQuery(tail=tail, since=parse_moment(since) if since else None, follow=follow)
        show_logs(name, options.runtime_kind(runtime), query, Console())

    run_command(run, debug=debug)


@app.command()
def status(
    as_json: options.AsJson = False,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Show every service: where it runs, how it is, what it reports. Exit code 1 if there is none."""
    from orchestrator.commands.status import show_status

    run_command(lambda: show_status(options.runtime_kind(runtime), as_json=as_json), debug=debug)


@app.command()
def doctor(
    as_json: options.AsJson = False,
    runtime: options.Runtime = "auto",
    name: options.Name = DEFAULTS.name,
    port: options.Port = DEFAULTS.port,
    publish_address: options.PublishAddress = DEFAULTS.publish_address,
    image: options.Image = DEFAULTS.image,
    base_image: options.BaseImage = DEFAULTS.base_image,
    ca_bundle: options.CaBundle = None,
    model: options.Model = DEFAULTS.model,
    models_dir: options.ModelsDir = None,
    hf_cache: options.HfCache = None,
    hf_endpoint: options.HfEndpoint = DEFAULTS.hf_endpoint,
    zmq_endpoint: options.ZmqEndpoint = DEFAULTS.zmq_endpoint,
    debug: options.Debug = False,
) -> None:
    """Look for what would stop `up` with these options, and say what to do. Exit code 1 if something would."""
    from orchestrator.doctor.examination import examine
    from orchestrator.host.hub_token import find_token

    def run() -> None:
        launch = Launch(
            runtime=options.runtime_kind(runtime),
            name=name,
            image=image,
            base_image=base_image,
            port=port,
            publish_address=publish_address,
            model=model,
            models_dir=models_dir,
            hf_cache=hf_cache,
            hf_endpoint=hf_endpoint,
            zmq_endpoint=zmq_endpoint,
            ca_bundle=ca_bundle,
            token=find_token(os.environ),
        )
        examine(launch, as_json=as_json)

    run_command(run, debug=debug)


app.add_typer(study)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # terminals without Unicode
    app(prog_name="kvcache")
