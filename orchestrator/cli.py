"""The `kvcache` command: its subcommands and exit codes (0 success, 1 failure, 2 wrong usage).

Each command imports its module when it runs, which keeps `kvcache --help` fast.
"""

from __future__ import annotations

import io
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator import options
from orchestrator.config import DEFAULT_FILE
from orchestrator.examples import EXIT_CODES, epilog
from orchestrator.launch import DEFAULTS, expanded
from orchestrator.options import LaunchOptions, launch_options
from orchestrator.rendering.forms import Form
from orchestrator.run_command import run_command

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_HELP = frozenset({"-h", "--help"})
_ASKS_FOR_HELP = "kvcache.asks_for_help"
_LOOK_AT_ALL = frozenset({"status", "prune"})
"""Commands about all services, whichever one the file of options names."""


class _Commands(TyperGroup):
    """The commands; `context.meta[_ASKS_FOR_HELP]` tells the callback, which cannot see the command's arguments."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        before = rest[: rest.index("--")] if "--" in rest else rest
        ctx.meta[_ASKS_FOR_HELP] = not _HELP.isdisjoint(before)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            name = error.param.name if error.param else None
            source = error.ctx.get_parameter_source(name) if error.ctx and name else None
            if source is not None and source.name == "DEFAULT_MAP":
                error.message = f"{error.message} It is in {ctx.params.get('config') or DEFAULT_FILE}."
            raise


app = typer.Typer(
    name="kvcache",
    cls=_Commands,
    help="Sends each request to the LLM engine that already holds most of its prompt in the KV cache.",
    epilog=f"{EXIT_CODES} docs/quickstart.md has the first ten minutes; kvcache COMMAND --help has examples.",
    no_args_is_help=True,
    rich_markup_mode=None,  # loading Rich to draw boxes takes twice as long as everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"kvcache {metadata.version('kvcache')}")
        except metadata.PackageNotFoundError:
            typer.echo("kvcache (a checkout that is not installed)")
        raise typer.Exit


def _read_config(context: typer.Context, file: Path | None) -> None:
    from orchestrator.config import default_map

    group = context.command
    options_of = {
        name: [one for one in command.params if one.name and one.param_type_name == "option"]
        for name, command in getattr(group, "commands", {}).items()
    }
    if context.meta.get(_ASKS_FOR_HELP) or not options_of.get(str(context.invoked_subcommand)):
        return  # help, and the tools of the service half, use nothing of the file
    names = {
        name: frozenset(one.name for one in own) - ({"name"} if name in _LOOK_AT_ALL else set())
        for name, own in options_of.items()
    }
    lists = {one.name for own in options_of.values() for one in own if getattr(one, "multiple", False)}
    context.default_map = default_map(
        file and expanded(file, "--config"),
        names,
        lists,
        # A misspelt name or port would lead to another service.
        refuse_unknown="name" in names[str(context.invoked_subcommand)],
    )


@app.callback()
def _program(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(envvar="KVCACHE_CONFIG", help="TOML file of options.", show_default="kvcache.toml here"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `kvcache` itself."""
    run_command(lambda: _read_config(context, config), debug=False)


@app.command(epilog=epilog("up"))
@launch_options()
def up(
    given: LaunchOptions,
    named: options.Named = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be run, as the runtime's own command line.")
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run the service until Ctrl+C. Builds its image if that changed, and removes the container at the end.

    The Hugging Face token is read from HF_TOKEN, or from the file in which huggingface_hub stores it.
    """
    from orchestrator.console import Console

    def run() -> None:
        launch = given.launch(named)
        if dry:
            from orchestrator.commands.dry_run import dry_run

            dry_run(launch, Console(quiet=quiet))
        else:
            from orchestrator.commands.up import up as bring_up

            bring_up(launch, Console(quiet=quiet))

    run_command(run, debug=debug)


@app.command(epilog=epilog("render"))
@launch_options(
    without=(
        *("runtime", "base_image", "ca_bundle", "wheel", "build", "pull", "timeout", "restart", "detach"),
        "valkey_image",
    )
)
def render(
    given: LaunchOptions,
    form: Annotated[Form, typer.Argument(help="The form: compose, quadlet or kubernetes.", show_default=False)],
    namespace: Annotated[str | None, typer.Option(help="Namespace of the service, for kubernetes.")] = None,
    debug: options.Debug = False,
) -> None:
    """Print what `up` would run, for Compose, Quadlet or Kubernetes.

    Takes the options of `up`, but not --runtime, --base-image, --ca-bundle, --wheel, --build, --pull, --timeout,
    --restart, --detach and --valkey-image; --replicas above 1 is refused.
    """
    from orchestrator.commands.render import render as print_rendered

    run_command(lambda: print_rendered(form, given.launch(), namespace), debug=debug)


@app.command(epilog=epilog("down"))
def down(
    named: options.Named = None,
    name: options.Name = DEFAULTS.name,
    every: Annotated[bool, typer.Option("--all", help="Remove all services, whatever their names.")] = False,
    runtime: options.OneRuntime = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Stop and remove the service. Idempotent: the exit code is 0 if the service does not exist."""
    from orchestrator.commands.down import down as bring_down
    from orchestrator.console import Console

    run_command(
        lambda: bring_down(named or name, options.runtime_kind(runtime), Console(quiet=quiet), every=every), debug=debug
    )


@app.command(epilog=epilog("stop"))
def stop(
    named: options.Named = None,
    name: options.Name = DEFAULTS.name,
    runtime: options.OneRuntime = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Stop a detached service and keep it for `start`."""
    from orchestrator.commands.stop import stop as stop_service
    from orchestrator.console import Console

    run_command(lambda: stop_service(named or name, options.runtime_kind(runtime), Console(quiet=quiet)), debug=debug)


@app.command(epilog=epilog("start"))
def start(
    named: options.Named = None,
    name: options.Name = DEFAULTS.name,
    runtime: options.OneRuntime = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Start a stopped service with its previous configuration."""
    from orchestrator.commands.stop import start as start_service
    from orchestrator.console import Console

    run_command(lambda: start_service(named or name, options.runtime_kind(runtime), Console(quiet=quiet)), debug=debug)


@app.command(epilog=epilog("restart"))
def restart(
    named: options.Named = None,
    name: options.Name = DEFAULTS.name,
    runtime: options.OneRuntime = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Stop a detached service and start it again.

    Of several replicas, the next stops when the one before is ready, or has not become so in time. The image stays.
    """
    from orchestrator.commands.stop import restart as restart_service
    from orchestrator.console import Console

    run_command(
        lambda: restart_service(named or name, options.runtime_kind(runtime), Console(quiet=quiet)), debug=debug
    )


@app.command(epilog=epilog("discover"))
def discover(
    named: options.Named = None,
    name: options.Name = DEFAULTS.name,
    runtime: options.OneRuntime = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Follow the engines in containers for a service.

    Ends when the service is removed. `up --discovery containers` starts this itself; after a reboot of the machine,
    start it by hand.
    """
    from orchestrator.commands.discover import discover as follow
    from orchestrator.console import Console

    run_command(lambda: follow(named or name, options.runtime_kind(runtime), Console(quiet=quiet)), debug=debug)


@app.command(epilog=epilog("prune"))
def prune(runtime: options.OneRuntime = "auto", quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """Remove unused images, and leftovers of killed commands."""
    from orchestrator.commands.prune import prune as prune_all
    from orchestrator.console import Console

    run_command(lambda: prune_all(options.runtime_kind(runtime), Console(quiet=quiet)), debug=debug)


@app.command(epilog=epilog("logs"))
def logs(
    named: options.Named = None,
    name: options.Name = DEFAULTS.name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it stops, or Ctrl+C.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines since then: 10m, 2h, or 2025-01-31T12:00:00Z.")
    ] = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Show the log of the service."""
    from orchestrator.commands.logs import parse_moment, show_logs
    from orchestrator.console import Console
    from orchestrator.runtimes.base import LogQuery

    def run() -> None:
        query = LogQuery(tail=tail, since=parse_moment(since) if since else None, follow=follow)
        show_logs(named or name, options.runtime_kind(runtime), query, Console())

    run_command(run, debug=debug)


@app.command(epilog=epilog("status"))
def status(
    named: options.Named = None,
    name: options.OnlyName = None,
    as_json: options.AsJson = False,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Show all services, or the named one, with their health.

    Adds what each service reports of itself. Exit code 1 if there is none.
    """
    from orchestrator.commands.status import show_status

    run_command(lambda: show_status(named or name, options.runtime_kind(runtime), as_json=as_json), debug=debug)


@app.command(epilog=epilog("doctor"))
@launch_options(without=("build", "pull", "timeout", "restart", "detach"))
def doctor(
    given: LaunchOptions,
    named: options.Named = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Find problems that would stop `up`, with remedies. Exit code 1 if any is found.

    An engine of --pod that does not answer, or whose events do not come, is a problem, too; warnings leave the code 0.
    Takes the options of `up`, but not --build, --pull, --timeout, --restart and --detach.
    """
    from orchestrator.commands.doctor import examine

    run_command(lambda: examine(given.launch(named), as_json=as_json), debug=debug)


@app.command(epilog=epilog("demo"))
@launch_options(
    without=(
        *("name", "port", "publish_address", "model", "models_dir", "hf_cache", "hf_endpoint", "zmq_endpoint", "pod"),
        "renderer",
        *(
            "zmq_topic",
            "pool_concurrency",
            "block_size",
            "env",
            "env_file",
            "network",
            "cpus",
            "memory",
            "replicas",
            "valkey_image",
            "restart",
            "detach",
        ),
        *("tls_cert", "tls_key", "tls_client_ca"),
    )
)
def demo(
    given: LaunchOptions,
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
    name: Annotated[str, typer.Option(help="Name of the container or process.")] = "kvcache-demo",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Port of the HTTP endpoints; 0: any.")
    ] = 0,
    debug: options.Debug = False,
) -> None:
    """Show cache-aware routing at work, with simulated engines. Needs no GPU and no hub.

    Exit code 1 if a prediction of the service differed from an engine's result.
    """
    from orchestrator.commands.demo import Play
    from orchestrator.commands.demo import demo as play_demo

    def run() -> int:
        launch = given.launch(name, port=port, token=None)
        until = options.seconds(duration, "--duration")
        return play_demo(launch, Play(pods, blocks, block_size, seed, requests, until, rate, keep, as_json))

    run_command(run, debug=debug)


@app.command(epilog=epilog("score"))
def score(
    prompt: options.PromptText = None,
    chat: options.ChatFile = None,
    model: options.AskedModel = None,
    lora_name: options.LoraName = None,
    cache_salt: options.CacheSalt = None,
    as_json: options.AsJson = False,
    name: options.Name = DEFAULTS.name,
    url: options.Url = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Ask a running service how much of a prompt each pod holds."""
    from orchestrator.commands.score import Question
    from orchestrator.commands.score import score as ask
    from orchestrator.service_client import find_client

    def run() -> None:
        file = chat and expanded(chat, "--chat")
        body = Question(prompt, file, model, lora_name, cache_salt).body()
        ask(find_client(name, url, options.runtime_kind(runtime)), body, as_json=as_json)

    run_command(run, debug=debug)


@app.command(epilog=epilog("select"))
def select(
    prompt: options.PromptText = None,
    chat: options.ChatFile = None,
    model: options.AskedModel = None,
    lora_name: options.LoraName = None,
    cache_salt: options.CacheSalt = None,
    as_json: options.AsJson = False,
    name: options.Name = DEFAULTS.name,
    url: options.Url = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Ask a running service which pod it would choose, and why."""
    from orchestrator.commands.score import Question
    from orchestrator.commands.select import select as ask
    from orchestrator.service_client import find_client

    def run() -> None:
        file = chat and expanded(chat, "--chat")
        body = Question(prompt, file, model, lora_name, cache_salt).body()
        ask(find_client(name, url, options.runtime_kind(runtime)), body, as_json=as_json)

    run_command(run, debug=debug)


@app.command(epilog=epilog("top"))
def top(
    named: options.Named = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many looks; in a pipe 1.")] = None,
    once: Annotated[bool, typer.Option("--once", help="The same as --count 1.")] = False,
    as_json: options.AsJson = False,
    name: options.Name = DEFAULTS.name,
    url: options.Url = None,
    runtime: options.OneRuntime = "auto",
    debug: options.Debug = False,
) -> None:
    """Watch the pods of a running service. Shows blocks, events per second, lag, exactness."""
    from orchestrator.commands.top import top as watch
    from orchestrator.service_client import find_clients

    def run() -> None:
        running = find_clients(named or name, url, options.runtime_kind(runtime))
        watch(running, interval=interval, count=1 if once else count, as_json=as_json)

    run_command(run, debug=debug)


@app.command(context_settings=_PASSED_ON)
def record(context: typer.Context) -> None:
    """Record the events of engines to a file."""
    _run_tool(context)


@app.command(context_settings=_PASSED_ON)
def replay(context: typer.Context) -> None:
    """Publish a recording as its engines did."""
    _run_tool(context)


@app.command(context_settings=_PASSED_ON)
def offline(context: typer.Context) -> None:
    """Analyse a recording, or score prompts against it."""
    _run_tool(context)


@app.command(context_settings=_PASSED_ON)
def parity(context: typer.Context) -> None:
    """Compare our tokens with those of an engine. Exit code 0 if equal, 1 if different, 2 if not known."""
    try:
        _run_tool(context)
    except typer.Exit:  # the tool has not run
        raise typer.Exit(2) from None


@app.command(context_settings=_PASSED_ON)
def simulate(context: typer.Context) -> None:
    """Run simulated engines with vLLM's endpoints and events."""
    _run_tool(context)


def _run_tool(context: typer.Context) -> None:
    from orchestrator.commands.tools import run_tool

    run_command(lambda: run_tool(str(context.info_name), context.args), debug=False)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals without Unicode
    app(prog_name="kvcache")
