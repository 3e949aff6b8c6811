"""The page, in a real browser."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.contract.api_keys import parse_api_keys
from service.contract.endpoints import Endpoint
from service.simulation.publisher import Publisher
from tests.service.conftest import Serve, url_of
from tests.service.engines import chat
from tests.service.events.batches import stored
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.service.ui.browser import CONTROL, ENTER, SHIFT, SPACE, TAB, Browser
from tests.waiting import PATIENCE

TEXT = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 8
FOCUSED = "document.activeElement"


async def ask(routed: Routed, text: str = TEXT, **fields: Any) -> str:
    """Sends a chat through the gateway; the pod that it went to."""
    async with routed.client.post(CHAT, json=chat(text, max_tokens=2, **fields)) as response:
        await response.read()
        pod = response.headers["X-Kvcache-Pod"]
    await routed.until_applied(next(engine for engine in routed.engines if engine.pod == pod))
    return pod


async def open_page(browser: Browser, routed: Routed, view: str = "pods") -> str:
    url = url_of(routed.client)
    await browser.open(f"{url}/ui#{view}")
    await browser.see_text("#connection", "live")
    return url


async def test_pods_are_listed_filtered_sorted_and_opened_with_a_mouse(browser: Browser, route: Route) -> None:
    routed = await route(2)
    holder = await ask(routed)
    other = next(engine.pod for engine in routed.engines if engine.pod != holder)
    url = url_of(routed.client)
    await browser.open(f"{url}/")
    await browser.see("document.querySelectorAll('#pods-table tbody').length === 2")
    assert await browser.script("return location.href") == f"{url}/ui"
    await browser.see_text("#pods-table", "exact")
    await browser.click("#pods-table thead th:nth-child(4) button")  # blocks on the GPU, the most first
    await browser.see("document.querySelector('#pods-table tbody .name').textContent === arguments[0]", holder)
    sorting = "document.querySelector('#pods-table thead th:nth-child(4)').ariaSort"
    assert await browser.script(f"return {sorting}") == "descending"
    await browser.click("#pods-table tbody .name")
    await browser.see_text("#pods-table .opened", f"http://{holder}")
    await browser.see_text("#pods-table .opened", "Block size")
    await browser.type("#pods-filter", other)
    await browser.see(
        "[...document.querySelectorAll('#pods-table .name')].map((one) => one.textContent).join() === arguments[0]",
        other,
    )
    await browser.type("#pods-filter", " nothing has this")
    await browser.see_text("#pods-empty", "No pod fits the filter")
    await routed.client.patch(f"/pods/{other}", json={"draining": True})
    await browser.script(
        "const filter = document.querySelector('#pods-filter');"
        "filter.value = 'draining'; filter.dispatchEvent(new Event('input'))"
    )
    await browser.see_text("#pods-table", other)
    assert await browser.hosts() == {url.removeprefix("http://")}, "it asks nobody else"


async def test_requests_appear_as_they_are_routed(browser: Browser, route: Route) -> None:
    routed = await route(2)
    await open_page(browser, routed, "requests")
    await browser.see_text("#requests-empty", "as they are routed")
    pod = await ask(routed, stream=True, stream_options={"include_usage": True})
    await browser.see_text("#requests-table tbody", pod)
    await browser.see_text("#requests-table tbody", "done")
    await ask(routed)
    await browser.see("document.querySelectorAll('#requests-table tbody tr').length === 2")
    await browser.see("/done/.test(document.querySelector('#requests-table tbody tr').textContent)")
    tokens, predicted, actual = await cells(browser)
    assert predicted == actual != "0"
    assert int(tokens.replace(",", "")) > int(actual.replace(",", ""))
    await browser.see_text("#figures", "median of 1")


async def cells(browser: Browser) -> list[str]:
    """Tokens, predicted and actual ones of the latest request."""
    row = "document.querySelector('#requests-table tbody tr')"
    return list(
        await browser.script(f"return [3, 4, 5].map((at) => {row}.cells[at - 1].firstElementChild.textContent)")
    )


async def test_a_prompt_shows_how_far_each_cache_reaches_who_gets_it_and_its_tokens(
    browser: Browser, route: Route
) -> None:
    routed = await route(2)
    holder = await ask(routed)
    await open_page(browser, routed, "prompt")
    await browser.click("[name=kind][value=chat]")
    await browser.type("#messages textarea", TEXT + "And 🚢 when?")
    await browser.click("#prompt-form [type=submit]")
    await browser.see_text("#explained-status", f"{holder} would get it.")
    held = await browser.see("document.querySelector('pre mark.held')?.textContent")
    assert "The harbour office answers" in held
    assert "🚢" not in held
    await browser.see_text("pre .flag.own", holder)
    assert "🚢" in await browser.text("pre.text")
    await browser.see_text(".why", "it reuses")
    await browser.click("#explained input[name=marked]:not(:checked)")
    await browser.see("document.querySelector('pre mark.held') === null && document.querySelector('pre mark') !== null")
    await browser.click("#explained input[name=marked]")
    await browser.click("#explained-result > details:last-child summary")
    await browser.see("document.querySelectorAll('.token').length > 100")
    assert await browser.script("return document.querySelectorAll('.token.held').length") > 50


async def test_a_pasted_request_is_taken_for_what_it_is_and_mistakes_are_said(browser: Browser, route: Route) -> None:
    browser.expected = "400"
    routed = await route(1)
    await open_page(browser, routed, "prompt")
    pasted = '{"messages": [{"role": "user", "content": "Which pier?"}], "temperature": 0}'
    await browser.script(
        "const field = document.querySelector('#prompt-text'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input', { bubbles: true }))",
        pasted,
    )
    await browser.see("document.querySelector('[name=kind]:checked').value === 'json'")
    await browser.see_text("#explained-status", "would get it")
    await browser.type("#prompt-json", "}")
    await browser.click("#prompt-form [type=submit]")
    await browser.see_text("#explained-status", "This is not JSON")
    await browser.script("document.querySelector('#prompt-json').value = arguments[0]", '{"messages": []}')
    await browser.click("#prompt-form [type=submit]")
    await browser.see_text("#explained-status", "messages")


async def test_everything_can_be_done_with_the_keyboard_alone(browser: Browser, route: Route) -> None:
    routed = await route(1)
    pod = await ask(routed)
    await open_page(browser, routed)
    await browser.see_text("#pods-table", pod)

    async def go_to(selector: str) -> None:
        for _ in range(60):
            await browser.press(TAB)
            if await browser.script(f"return {FOCUSED}.matches(arguments[0])", selector):
                assert await browser.script(f"return getComputedStyle({FOCUSED}).outlineStyle") != "none"
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    await go_to(".skip")
    await browser.press(ENTER)
    assert await browser.script(f"return {FOCUSED}.id") == "main"
    await go_to("#pods-table thead button")
    await browser.press(SPACE)
    await browser.see("document.querySelector('#pods-table thead th').ariaSort === 'ascending'")
    await go_to("#pods-table .name")
    await browser.press(ENTER)
    await browser.see("document.querySelector('#pods-table .opened')")
    assert await browser.script(f"return {FOCUSED}.matches('.name')"), "the focus stays while rows change"
    await browser.open(f"{url_of(routed.client)}/ui")
    await go_to("#to-prompt")
    await browser.press(ENTER)
    await go_to("#prompt-text")
    await browser.press(*"Where is the crane?")
    await browser.chord(CONTROL, ENTER)
    await browser.see_text("#explained-status", f"{pod} would get it.")
    await go_to("#explained-result summary")
    await browser.press(ENTER)
    await browser.see("document.querySelectorAll('.token').length > 2")
    await browser.chord(SHIFT, TAB)
    assert await browser.script(f"return {FOCUSED}.matches('pre.text')"), "a long text can be scrolled with the keys"


async def test_a_service_with_keys_is_asked_with_one_that_stays_in_the_tab(browser: Browser, serve: Serve) -> None:
    key = "sk-reading-0123456789"
    browser.expected = "401"
    client = await serve(api_keys=parse_api_keys(f"reader:read:{key}"))
    await browser.open(f"{url_of(client)}/ui")
    await browser.see("document.querySelector('#key-dialog').open")
    await browser.press(*"sk-wrong-0123456789", ENTER)
    await browser.see_text("#key-reason", "The key was not taken")
    await browser.see("document.querySelector('#key-dialog').open")
    await browser.press(*key, ENTER)
    await browser.see_text("#connection", "live")
    assert not await browser.script("return document.querySelector('#key-dialog').open")
    assert await browser.script("return [Object.values(sessionStorage), localStorage.length]") == [[key], 0]
    await browser.click("#to-prompt")
    await browser.type("#prompt-text", "Which pier?")
    await browser.see_text("#explained-status", "No pod holds any of it.")
    await browser.click("#forget-key")
    await browser.see("document.querySelector('#key-dialog')?.open")


@pytest.mark.parametrize("evil", ['<img src=x onerror="window.hit=1">', "</script><script>window.hit=1</script>"])
async def test_names_and_prompts_of_strangers_are_shown_as_text(browser: Browser, serve: Serve, evil: str) -> None:
    browser.expected = "explain"  # the model that nobody has: 404
    async with Publisher(topic=f"kv@{evil}@{evil}") as publisher:
        client = await serve(zmq_endpoint=(Endpoint(publisher.address),))
        await publisher.subscribed()
        publisher.publish(stored(1))
        await client.post("/pods", json={"url": "http://127.0.0.1:9", "name": f"{evil}2"})
        await browser.open(f"{url_of(client)}/ui")
        await browser.see("document.querySelectorAll('#pods-table .name').length === 2")
        names = await browser.script("return [...document.querySelectorAll('.name')].map((one) => one.textContent)")
        assert sorted(names) == sorted([evil, f"{evil}2"])
        await browser.script("for (const name of document.querySelectorAll('.name')) name.click()")
        await browser.see_text("#pods-table", "Events from")
        await browser.click("#to-prompt")
        await browser.type("#prompt-text", evil)
        await browser.see_text("pre.text", evil)
        await browser.click("#explained-result > details:last-child summary")
        await browser.see("document.querySelectorAll('.token').length > 2")
        await browser.script("document.querySelector('#prompt-model').value = arguments[0]", evil)
        await browser.click("#prompt-form [type=submit]")
        await browser.see_text("#explained-status", "window.hit")
        await browser.click("#to-requests")
        async with client.post(CHAT, json=chat("a", model=evil)) as refused:
            assert refused.status in (404, 503)
        await browser.see_text("#requests-table tbody", "refused")
        found = "return [window.hit, document.querySelectorAll('img, script:not([src])').length]"
        assert await browser.script(found) == [None, 0]


async def test_a_page_that_is_paused_or_hidden_costs_nothing(browser: Browser, route: Route) -> None:
    routed = await route(1)
    await open_page(browser, routed)

    async def until_streams(number: int) -> None:
        metric, metrics = f"kvcache_http_event_streams {number}.0", ""
        async with asyncio.timeout(PATIENCE):
            while metric not in metrics:
                metrics = await (await routed.client.get("/metrics")).text()

    await until_streams(2)
    await browser.click("#pause")
    await browser.see_text("#connection", "paused")
    await until_streams(0)
    await browser.click("#pause")
    await browser.see_text("#connection", "live")
    await until_streams(2)
    await browser.open("about:blank")
    await until_streams(0)


_VIOLATIONS = """
return axe.run(document, { resultTypes: ["violations"] }).then((found) =>
  found.violations.map((one) => `${one.id}: ${one.help} ${one.nodes.map((node) => node.html).slice(0, 3).join(" ")}`))
"""


@pytest.mark.parametrize(("width", "scheme"), [(1600, "light"), (1600, "dark"), (400, "light"), (400, "dark")])
async def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browser: Browser, route: Route, axe: str, width: int, scheme: str
) -> None:
    routed = await route(2)
    await browser.look(width, 900, scheme)
    await open_page(browser, routed)
    pod = await ask(routed, stream=True)
    await routed.client.post("/pods", json={"url": "http://127.0.0.1:9", "name": "down"})
    await routed.client.patch(f"/pods/{pod}", json={"draining": True})
    await browser.script(axe)
    await browser.see_text("#pods-table", "draining")
    await browser.click("#pods-table .name")
    assert await browser.script(_VIOLATIONS) == []
    for view in ("requests", "prompt"):
        await browser.click(f"#to-{view}")
        if view == "prompt":
            await browser.type("#prompt-text", "Where is the crane? " * 20)
            await browser.see_text("#explained-status", "would get it")
            await browser.click("#explained-result > details:last-child summary")
            await browser.see("document.querySelectorAll('.token').length > 2")
        assert await browser.script(_VIOLATIONS) == []
        assert await browser.script("return document.scrollingElement.scrollWidth <= innerWidth")
