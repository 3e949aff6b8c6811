from __future__ import annotations

import logging

import pytest

from service.contract.pods import parse_pods
from service.fleet.discovery.discovery import Discovery
from service.fleet.registry import Registry
from tests.service.fleet.discovery.conftest import Discover
from tests.service.fleet.discovery.scripted import ScriptedSource
from tests.waiting import until


def names(registry: Registry) -> list[str]:
    return sorted(pod.name for pod in registry)


def given(registry: Registry, pod: str) -> None:
    registry.add(parse_pods(pod)[0])


async def test_pods_come_go_and_change_with_their_source_and_others_stay(
    registry: Registry, discover: Discover
) -> None:
    given(registry, "http://g:1,name=given")
    source = ScriptedSource()
    discover(source)
    source.names("http://a:1", "http://b:1,name=b")
    await until(lambda: names(registry) == ["a:1", "b", "given"])
    kept, changed = registry.get("a:1"), registry.get("b")
    source.names("http://a:1", "http://b:2,name=b")
    await until(lambda: registry.get("b") is not changed)
    assert registry.get("a:1") is kept
    source.names()
    await until(lambda: names(registry) == ["given"])


async def test_a_pod_that_two_sources_name_is_one_and_goes_when_neither_names_it(
    registry: Registry, discover: Discover
) -> None:
    first, second = ScriptedSource("first"), ScriptedSource("second")
    discover(first, second)
    first.names("http://a:1,name=a")
    await until(lambda: names(registry) == ["a"])
    pod = registry.get("a")
    second.names("http://a:1", "http://b:1")
    await until(lambda: names(registry) == ["a", "b:1"])
    assert registry.get("a") is pod
    second.names("http://b:1")
    first.names("http://c:1")
    await until(lambda: names(registry) == ["b:1", "c:1"])


async def test_a_pod_that_is_named_twice_drains_if_one_source_says_so(registry: Registry, discover: Discover) -> None:
    first, second = ScriptedSource("first"), ScriptedSource("second")
    discover(first, second)
    first.names("http://a:1")
    await until(lambda: names(registry) == ["a:1"])
    pod = registry.get("a:1")
    assert pod is not None
    second.names("http://a:1", draining=True)
    await until(lambda: pod.is_draining)
    second.names()
    await until(lambda: not pod.is_draining)
    pod.draining = True  # the operator's word is kept
    second.names("http://b:1")
    await until(lambda: names(registry) == ["a:1", "b:1"])
    assert pod.is_draining
    assert registry.get("a:1") is pod


async def test_a_given_pod_stays_when_a_source_names_it_too_and_forgets_it(
    registry: Registry, discover: Discover
) -> None:
    given(registry, "http://a:1,name=given")
    source = ScriptedSource()
    discovery: Discovery = discover(source)
    source.names("http://a:1", "http://b:1", draining=True)
    await until(lambda: names(registry) == ["b:1", "given"])
    pod = registry.get("given")
    assert pod is not None
    assert not pod.is_draining
    source.names("http://other:1,name=given")
    await until(lambda: names(registry) == ["given"])
    (report,) = discovery.reports()
    assert report.problem == "http://other:1 is left out: http://a:1 has the name given"
    assert not report.failing
    source.names()
    await until(lambda: discovery.reports()[0].problem is None)
    assert names(registry) == ["given"]


async def test_a_source_that_fails_keeps_its_pods_and_says_so_once(
    registry: Registry, discover: Discover, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failing, well = ScriptedSource("failing"), ScriptedSource("well")
    discovery: Discovery = discover(failing, well)
    failing.names("http://a:1")
    well.names("http://b:1")
    await until(lambda: names(registry) == ["a:1", "b:1"])
    for _ in range(2):
        failing.fails("it is asleep")
    await until(lambda: discovery.reports()[0].failures == 2)
    well.names("http://c:1")
    await until(lambda: names(registry) == ["a:1", "c:1"])
    assert [(one.source, one.pods, one.failing, one.problem) for one in discovery.reports()] == [
        ("failing", 1, True, "it is asleep"),
        ("well", 1, False, None),
    ]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["failing: it is asleep; its last 1 pods are kept"]
    failing.names()
    await until(lambda: names(registry) == ["c:1"])
    assert not discovery.reports()[0].failing
    assert caplog.messages[-1] == "failing is well again: it names 0 pods"


async def test_a_source_that_fails_in_an_unexpected_way_is_asked_again(
    registry: Registry, discover: Discover, caplog: pytest.LogCaptureFixture
) -> None:
    source = ScriptedSource()
    discovery: Discovery = discover(source)
    source.fails(KeyError("port"))
    await until(lambda: discovery.reports()[0].problem == "KeyError: 'port'")
    source.names("http://a:1")
    await until(lambda: names(registry) == ["a:1"])


async def test_a_pod_that_was_removed_by_hand_comes_back_when_it_is_named_anew(
    registry: Registry, discover: Discover
) -> None:
    source = ScriptedSource()
    discover(source)
    source.names("http://a:1")
    await until(lambda: names(registry) == ["a:1"])
    registry.remove("a:1")
    source.names("http://a:1", "http://b:1")
    await until(lambda: names(registry) == ["b:1"])
    source.names("http://b:1")
    source.names("http://a:1", "http://b:1")
    await until(lambda: names(registry) == ["a:1", "b:1"])


async def test_an_unreadable_key_file_makes_a_source_fail_and_is_tried_again(
    registry: Registry, discover: Discover
) -> None:
    source = ScriptedSource()
    discovery: Discovery = discover(source)
    source.names("http://a:1,key_file=/no/such/key")
    await until(lambda: "the key_file of a:1 cannot be read" in (discovery.reports()[0].problem or ""))
    source.names("http://a:1")
    await until(lambda: names(registry) == ["a:1"])
