"""Asks an engine whether it computes the same tokens as kvcache does, for all its models, and says what to set if not.

Exit code 0 if all tokens are equal, 1 if some differ, 2 if it is not known.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from msgspec.structs import replace

from service.commands.command_line import parser
from service.contract.compared import Compared, write_compared
from service.contract.pods import parse_pods
from service.contract.settings import Settings, SettingsError
from service.fleet.parity import Parity, Verdict
from service.fleet.probe import Probe, ProbeFailed
from service.fleet.registry import Learned, Pod, ServedModel
from service.native.backend import COMPILED
from service.parity.comparison import Comparison
from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.models.catalog import Models
from service.prompts.options import CacheBudget, PromptOptions
from service.prompts.renderers.engine_api import EngineApi

_TIMEOUT = 30.0
_EXIT_CODES = {Verdict.EQUAL: 0, Verdict.DIFFERS: 1, Verdict.UNKNOWN: 2}
_UNKNOWN = _EXIT_CODES[Verdict.UNKNOWN]


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _read(arguments)
    try:
        settings = Settings.from_environment(environment)
        pod = Pod(options.pod, key=options.key_file.read_text(encoding="utf-8").strip() if options.key_file else None)
        return asyncio.run(_run(options, settings, pod))
    except (SettingsError, OSError, ProbeFailed) as error:
        print(f"parity: {error}", file=sys.stderr)  # noqa: T201
        return _UNKNOWN


def _read(arguments: list[str]) -> argparse.Namespace:
    command = parser("parity", __doc__, "http://10.0.0.7:8000", "http://10.0.0.7:8000 --files org/model")
    command.add_argument("url", metavar="URL", help="the engine, such as http://10.0.0.7:8000")
    command.add_argument("--model", metavar="NAME", help="one of the engine's models (default: all)")
    command.add_argument(
        "--files",
        metavar="NAME",
        help="where the tokenizer is: a name of the hub, of MODELS_DIR, or a folder (default: what the engine says)",
    )
    command.add_argument("--models-dir", type=Path, metavar="FOLDER", help="folder of models (default: MODELS_DIR)")
    command.add_argument("--key-file", type=Path, metavar="FILE", help="file with the engine's API key")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    options = command.parse_args(arguments)
    try:
        (options.pod,) = parse_pods(options.url)
    except ValueError as error:
        command.error(str(error))
    return options


async def _run(options: argparse.Namespace, settings: Settings, pod: Pod) -> int:
    caches = CacheBudget.of(settings.token_cache_bytes, compiled=COMPILED)
    prompts = PromptOptions.of(settings, caches)
    if options.models_dir is not None:
        prompts = replace(prompts, models_dir=options.models_dir.resolve())
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        learned = await Probe(session).learn(pod)
        served = [model for model in learned.models if model.parent is None and options.model in (None, model.id)]
        if not served:
            known = ", ".join(model.id for model in learned.models) or "no model"
            raise ProbeFailed(f"{pod.entry.url} serves {known}, not {options.model}")
        if options.files:
            files = _absolute(options.files)
            aliases = {**prompts.model_aliases, **{model.id: files for model in served}}
            prompts = replace(prompts, model_aliases=aliases)
        roots = {model.id: model.root for model in served}
        models = Models(prompts, lambda _: True, root_of=roots.get)
        stack.push_async_callback(models.close)
        api = EngineApi(session, pod.entry.url, pod.key)
        found = {model: await _compared(api, models, model.id) for model in served}
    if options.json:
        compared = (_as_compared(model, parity) for model, parity in found.items())
        print(write_compared(pod.entry.url, learned.version, compared))  # noqa: T201
    else:
        _print(pod, learned, found, options.files)
    return _EXIT_CODES[Verdict.of_all([parity.verdict for parity in found.values()])]


def _absolute(files: str) -> str:
    """A folder as an absolute path; any other name unchanged."""
    return str(Path(files).resolve()) if Path(files).is_dir() else files


async def _compared(api: EngineApi, models: Models, name: str) -> Parity:
    try:
        return await Comparison(api, name, await models.get(name)).run()
    except (ModelNotFound, ModelUnavailable) as error:
        remedy = "Say where its tokenizer is: --files NAME, or MODEL_ALIASES for the service"
        return Parity(reason=str(error), remedy=remedy)


def _as_compared(model: ServedModel, parity: Parity) -> Compared:
    at = parity.difference
    return Compared(
        model=model.id,
        verdict=parity.verdict,
        root=model.root,
        renderer=parity.renderer,
        compared=parity.compared,
        differing=parity.differing,
        request=at.request if at is not None else None,
        position=at.position if at is not None else None,
        here=at.here if at is not None else None,
        engine=at.engine if at is not None else None,
        reason=parity.reason,
        remedy=parity.remedy,
    )


def _print(pod: Pod, learned: Learned, found: Mapping[ServedModel, Parity], files: str | None) -> None:
    lines = [f"{pod.entry.url}{f', version {learned.version}' if learned.version else ''}"]
    for model, parity in found.items():
        root = f" (root {model.root})" if model.root not in (None, model.id) else ""
        lines.append(f"  {model.id}{root}: {parity.verdict}")
        if parity.compared:
            lines.append(
                f"    {parity.compared} requests compared with the renderer {parity.renderer}; chats: {parity.chats}, "
                f"texts: {parity.texts}"
            )
        if parity.differing:
            lines.append(f"    different: {', '.join(parity.differing)}")
        if (at := parity.difference) is not None:
            lines += [
                f"    {at.request!r} differs from token {at.position} on",
                f"      here:   {at.here!r}",
                f"      engine: {at.engine!r}",
            ]
        if parity.reason:
            lines.append(f"    {parity.reason}")
    lines += _advice(found, files)
    print("\n".join(lines))  # noqa: T201


def _advice(found: Mapping[ServedModel, Parity], files: str | None) -> list[str]:
    """The settings to make, a line each."""
    lines = [f"{parity.remedy}." for parity in found.values() if parity.remedy]
    if files and any(parity.verdict is not Verdict.UNKNOWN for parity in found.values()):
        lines.append("Set MODEL_ALIASES=" + ",".join(f"{model.id}={files}" for model in found))
    return list(dict.fromkeys(lines)) or ["Nothing needs to be set."]
