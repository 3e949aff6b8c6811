from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from service.contract.pods import parse_pods
from service.fleet.pods_file import PodsFile
from service.fleet.registry import Registry
from tests.waiting import until


class Watched:
    """A file that is watched, and the registry that follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = Registry()
        self.file = PodsFile(path, self.registry, interval=0.005)

    def write(self, *pods: str) -> None:
        self.path.write_text(json.dumps(pods))

    def has(self, *names: str) -> Callable[[], bool]:
        return lambda: [pod.name for pod in self.registry] == list(names)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path / "pods.json")
    made.write("http://h:1,name=a", "http://h:2,name=b")
    task = asyncio.create_task(made.file.watch())
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_pods_come_go_and_change_with_the_file(watched: Watched) -> None:
    await until(watched.has("a", "b"))
    kept = watched.registry.get("a")
    watched.write("http://h:1,name=a", "http://h:3,name=b", "http://h:4,name=c")
    await until(watched.has("a", "b", "c"))
    assert watched.registry.get("a") is kept
    changed = watched.registry.get("b")
    assert changed is not None and changed.entry.port == 3
    watched.write()
    await until(watched.has())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "must be a list of pods, in YAML or JSON"),
        ("http://h:1", "must be a list of pods"),
        ("pods: [http://h:1]", "must be a list of pods"),
        ("- http://h:1\n- url: nowhere", "is not a valid URL"),
        ("- http://h:1\n- {url: http://h:2, colour: red}", "unknown field `colour`"),
        ('[{"url": "http://h:2", "name": 5}]', "Expected `str | null`"),
        ("- {url: http://h:2, name: 'a,key_file=/etc/passwd'}", "must not be empty or have a comma"),
        ("- &a [*a]\n- \x00", "must be a list of pods"),
        ('["http://h:1", "nowhere"]', "is not a valid URL"),
        ('["http://h:1,name=a", "http://h:2,name=a"]', "two pods have the name a"),
        ('["http://h:1,name=given"]', "there is a pod given already"),
        ('["http://h:1,key_file=/no/such/file"]', "No such file"),
    ],
)
async def test_a_broken_file_is_refused_whole(watched: Watched, content: str, problem: str) -> None:
    await until(watched.has("a", "b"))
    watched.registry.add(parse_pods("http://h:9,name=given")[0])
    watched.path.write_text(content)
    await until(lambda: problem in (watched.file.problem or ""))
    assert watched.has("a", "b", "given")()
    watched.write("http://h:5,name=d")
    await until(watched.has("given", "d"))
    assert watched.file.problem is None


async def test_the_file_may_be_yaml_with_texts_and_mappings(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    watched.path.write_text(
        f"""
        # two engines
        - http://h:1,name=a
        - url: http://h:2/v1
          name: b
          events: tcp://h:5557
          replay: tcp://h:5558
          model: m
          key_file: {tmp_path}/key
        """
    )
    await until(watched.has("a", "b"))
    await until(lambda: (pod := watched.registry.get("b")) is not None and pod.key == "secret")
    pod = watched.registry.get("b")
    assert pod is not None
    text = f"http://h:2,name=b,events=tcp://h:5557,replay=tcp://h:5558,model=m,key_file={tmp_path}/key"
    assert (pod.entry,) == parse_pods(text)


async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "pods.json")
    task = asyncio.create_task(watched.file.watch())
    await until(lambda: watched.file.problem is not None)
    watched.write("http://h:1,name=a")
    await until(watched.has("a"))
    task.cancel()
