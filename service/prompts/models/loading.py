"""Loads models from their folders: the operator's into this process, strangers' tokenizers into killable ones."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from service.contract.model_options import ModelOptions
from service.prompts.errors import BadModelFile, ModelUnavailable, PromptError
from service.prompts.models.isolated_tokenizer import PROCESSES, WORKER, IsolatedTokenizer
from service.prompts.models.model import Model, given_template_file
from service.prompts.models.model_files import ModelFiles, files_state, read_model_files
from service.prompts.models.tokenizer_worker import ModelSource
from service.prompts.models.vocabulary_process import ProcessVocabulary
from service.prompts.models.vocabulary_worker import Source
from service.prompts.options import PromptOptions
from service.prompts.renderers.base import HARMONY, MISTRAL, RendererMissing
from service.prompts.renderers.choice import PackageTokenizer, load_package
from service.prompts.renderers.threaded import ModelRenderer, ThreadedPackage, ThreadedRenderer
from service.prompts.templates.rendering import Renderer
from service.prompts.tokens.base import ModelTokenizer, TokenizerUnavailable
from service.prompts.tokens.threaded import ThreadedTokenizer
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from service.prompts.workers.pool import WorkerPool
from service.prompts.workers.shared import SharedProcess

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_MAX_BYTES_OF_STRANGERS: Final = 4 << 20
"""Of all files but the tokenizer."""

_LARGE_BYTES = 4 << 20
"""Of a tokenizer.json that is loaded in a process. To load a smaller one holds the GIL for 0.3 s at most."""
_VOCABULARY_WORKER: Final = "service.prompts.models.vocabulary_worker"
_MAX_ANSWER_BYTES: Final = 1 << 30


class _Parts(NamedTuple):
    tokenizer: ModelTokenizer
    package: ModelRenderer | RendererMissing | None
    is_known_class: bool


class ModelLoader:
    """Loads models. Call its methods on the event loop."""

    def __init__(
        self,
        options: PromptOptions,
        cache: TokenCache,
        workers: Executor,
        length_of: Callable[[str], int | None],
    ) -> None:
        """`length_of` returns the maximum length that an engine gives a model."""
        self._options = options
        self._renderer = Renderer(options.render_timeout, options.max_prompt_characters)
        self._cache = cache
        self._workers = workers
        self._length_of = length_of
        self._isolated = WorkerPool(WORKER, PROCESSES)
        self._processes: set[SharedProcess] = set()

    async def load(self, name: str, folder: Path, *, trusted: bool) -> Model:
        """Raises BadModelFile and ModelUnavailable."""
        state = await self.state(name, folder)
        chosen = self._options.renderers.get(name)
        limit = None if trusted else _MAX_BYTES_OF_STRANGERS
        files = await self._in_thread(partial(read_model_files, folder, name, chosen, max_bytes=limit))
        parts = await (self._own(name, files) if trusted else self._strangers(name, files))
        if not parts.is_known_class:
            logger.warning(
                "the tokens of %s may differ from its engine's: how %s changes tokenizer.json is not known here",
                name,
                files.tokenizer_class,
            )
        return Model(
            name,
            files,
            state=state,
            trusted=trusted,
            options=self._options,
            given=self._given(name),
            renderer=self._renderer,
            tokenizer=parts.tokenizer,
            package=parts.package,
            served_length=partial(self._length_of, name),
        )

    async def state(self, name: str, folder: Path) -> tuple[object, ...]:
        """A value that changes with the files of a model."""
        template = given_template_file(self._given(name).chat_template, self._options.models_dir)
        return await self._in_thread(lambda: files_state(folder, *([] if template is None else [template])))

    async def close(self) -> None:
        """Stops the processes."""
        await self._renderer.close()
        await self._isolated.close()
        for process in list(self._processes):
            await self._end(process)

    async def _own(self, name: str, files: ModelFiles) -> _Parts:
        package: ModelRenderer | RendererMissing | None = None
        if files.renderer.name in {HARMONY, MISTRAL}:
            try:
                loaded = await self._in_thread(lambda: load_package(files.renderer, self._cache_of_packages()))
            except RendererMissing as error:
                package = error
                if files.renderer.name == MISTRAL and not files.tokenizer_file.is_file():
                    reason = f"its prompts are rendered by {files.renderer.name}: {error}"
                    raise ModelUnavailable(name, reason, error.remedy) from None
            else:
                if isinstance(loaded, PackageTokenizer):
                    threaded = ThreadedPackage(loaded, self._workers)
                    return _Parts(threaded, threaded, is_known_class=True)
                package = ThreadedRenderer(loaded, self._workers)
        if await self._in_thread(lambda: _is_large(files)):
            tokenizer = await self._in_process(name, files)
        else:
            tokenizer = await self._in_thread(
                lambda: ThreadedTokenizer(TextTokenizer(LoadedVocabulary(files), self._cache), self._workers)
            )
        return _Parts(tokenizer, package, tokenizer.is_known_class)

    async def _in_process(self, name: str, files: ModelFiles) -> ThreadedTokenizer:
        """A tokenizer whose vocabulary is in a process, which ends when no request needs it any longer."""
        process = SharedProcess(_VOCABULARY_WORKER, _MAX_ANSWER_BYTES, f"the tokenizer of {name}")
        self._processes.add(process)

        def load() -> tuple[ProcessVocabulary, ThreadedTokenizer]:
            vocabulary = ProcessVocabulary(process, Source(str(files.folder), name, files.renderer.name))
            return vocabulary, ThreadedTokenizer(TextTokenizer(vocabulary, self._cache), vocabulary.threads)

        try:
            vocabulary, tokenizer = await self._in_thread(load)
        except BaseException as error:
            await self._end(process)
            match error:
                case TokenizerUnavailable():
                    raise ModelUnavailable(name, f"its tokenizer cannot be loaded: {error}", "Try again") from None
                case PromptError():
                    raise BadModelFile(files.tokenizer_file, error.message) from None
            raise
        weakref.finalize(vocabulary, self._end_soon, process, asyncio.get_running_loop()).atexit = False
        return tokenizer

    def _end_soon(self, process: SharedProcess, loop: asyncio.AbstractEventLoop) -> None:
        """Ends a process. May be called in any thread, whatever locks it holds."""
        if process in self._processes and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(self._end(process)))

    async def _end(self, process: SharedProcess) -> None:
        process.kill()
        await self._in_thread(process.close)
        self._processes.discard(process)

    async def _strangers(self, name: str, files: ModelFiles) -> _Parts:
        source = ModelSource(str(files.folder), name, files.renderer.name, self._options.token_cache_by_salt)
        isolated = await IsolatedTokenizer.load(self._isolated, source, self._options.render_timeout)
        package: ModelRenderer | RendererMissing | None = isolated if files.renderer.name == MISTRAL else None
        if files.renderer.name == HARMONY:
            try:  # the package has its own vocabulary
                loaded = await self._in_thread(lambda: load_package(files.renderer, self._cache_of_packages()))
                package = ThreadedRenderer(loaded, self._workers)
            except RendererMissing as error:
                package = error
        return _Parts(isolated, package, isolated.is_known_class)

    def _cache_of_packages(self) -> TokenCache:
        """Renderers of packages cache without salts."""
        return TokenCache(0) if self._options.token_cache_by_salt else self._cache

    def _given(self, name: str) -> ModelOptions:
        return self._options.model_options.get(name, ModelOptions())

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)


def _is_large(files: ModelFiles) -> bool:
    try:
        return files.tokenizer_file.stat().st_size > _LARGE_BYTES
    except OSError as error:
        raise BadModelFile(files.tokenizer_file, error) from None
