"""Renders chat templates: the quick ones at once, all others in processes that can be killed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jinja2

from service.contract.settings import Settings
from service.prompts.errors import PromptError
from service.prompts.templates.conversation import ContentFormat
from service.prompts.templates.guarded_environment import GuardedEnvironment
from service.prompts.templates.guarded_syntax import TooMuch
from service.prompts.templates.render_processes import START_SECONDS, RenderFailed, RenderLost, RenderProcess
from service.prompts.templates.render_worker import Findings, Job

_T = TypeVar("_T")

_PROCESSES = 2
_MAX_QUEUED_RENDERS = 3
"""How many renderings that take all their time one may wait for."""

_TOLERATED_SECONDS = 0.05
"""How long a template may hold the event loop once; after that it has to render elsewhere."""

_KEPT_TEMPLATES = 64
_LONGEST_ANSWER = 10_000
_LONGEST_SOURCE = 1 << 20
_LONGEST_REASON = 1000


class RenderingUnavailable(Exception):
    """Nothing can be rendered just then; the text says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template, looked into once."""

    source: str
    content_format: ContentFormat
    quick: jinja2.Template | None
    """The template as the guarded environment renders it, where that is worth trying."""


class Renderer:
    """Renders for all models of the service. Its methods are for the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.render_timeout
        self._most = settings.max_prompt_characters
        self._guarded = GuardedEnvironment()
        self._templates: OrderedDict[str, Template | PromptError] = OrderedDict()
        self._own = threading.local()
        self._processes: list[RenderProcess] = []
        self._threads = ThreadPoolExecutor(_PROCESSES, thread_name_prefix="render")

    async def template(self, source: str) -> Template:
        """Gives a template by its source; raises PromptError for one that does not parse, and RenderingUnavailable."""
        found = self._templates.get(source)
        if found is None:
            found = await self._look_into(source)
            self._keep(source, found)
        else:
            self._templates.move_to_end(source)
        if isinstance(found, PromptError):
            raise found.with_traceback(None)
        return found

    async def render(self, template: Template, variables: dict[str, Any]) -> str:
        """Gives the text; raises PromptError where the template fails on the variables, and RenderingUnavailable."""
        if template.quick is not None:
            started = time.thread_time()
            try:
                return self._guarded.render(template.quick, variables)
            except (TooMuch, RecursionError, MemoryError):
                pass  # It starts anew, where it may take its time.
            except Exception as error:  # a template may fail in any way
                raise _failure(str(error) or type(error).__name__) from None
            finally:
                if time.thread_time() - started > _TOLERATED_SECONDS:
                    self._keep(template.source, replace(template, quick=None))
        job = Job(template.source, variables, self._most, self._seconds)
        return await self._in_thread(lambda: self._process().run(job))

    async def close(self) -> None:
        """Ends all renderings and their processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.close()

    async def _look_into(self, source: str) -> Template | PromptError:
        """Gives a template, or what is wrong with it for good."""
        if len(source) > _LONGEST_SOURCE:
            return PromptError(f"the chat template is longer than {_LONGEST_SOURCE} characters", "chat_template")
        try:
            return await self._in_thread(lambda: self._looked_into(source))
        except PromptError as error:
            if isinstance(error.__cause__, RenderLost):
                raise
            return error

    def _keep(self, source: str, found: Template | PromptError) -> None:
        self._templates[source] = found
        while len(self._templates) > _KEPT_TEMPLATES:
            self._templates.popitem(last=False)

    def _looked_into(self, source: str) -> Template:
        findings = Findings(*json.loads(self._process().run(Job(source, None, _LONGEST_ANSWER, self._seconds))))
        quick = self._guarded.compiled(source) if findings.quick else None
        return Template(source, findings.content_format, quick)

    def _process(self) -> RenderProcess:
        """The process of the thread that calls."""
        process: RenderProcess | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = RenderProcess()
            self._processes.append(process)
        return process

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.wait_for(future, _MAX_QUEUED_RENDERS * self._seconds + START_SECONDS)
        except TimeoutError:
            raise RenderingUnavailable("other chat templates that take long keep it busy") from None
        except RenderFailed as error:
            raise _failure(str(error)) from error
        except OSError as error:
            raise RenderingUnavailable(f"no process can be started to render in ({error})") from None


def _failure(reason: str) -> PromptError:
    return PromptError(f"the chat template failed: {reason[:_LONGEST_REASON]}", "messages")
