from __future__ import annotations

import pytest

from service.api.errors import ApiError
from service.api.key_rates import KeyRates
from service.contract.api_keys import parse_api_keys, parse_rates
from tests.clock import Clock
from tests.service.conftest import Serve

KEY, OTHER = "sk-first-0123456789", "sk-second-0123456789"


def test_a_key_may_send_the_requests_of_a_second_at_once_and_then_at_its_rate() -> None:
    clock = Clock(100.0)
    rates = KeyRates({"a": 3.0}, clock)
    for _ in range(3):
        rates.take("a")
    with pytest.raises(ApiError) as refused:
        rates.take("a")
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    clock.now += 0.34
    rates.take("a")
    with pytest.raises(ApiError):
        rates.take("a")


def test_a_rate_below_one_per_second_says_how_long_to_wait() -> None:
    rates = KeyRates({"a": 0.1}, Clock(100.0))
    rates.take("a")
    with pytest.raises(ApiError) as refused:
        rates.take("a")
    assert refused.value.headers == {"Retry-After": "10"}


def test_keys_have_their_own_rates_and_others_that_of_the_star() -> None:
    rates = KeyRates(dict(parse_rates("a=1, *=2")), Clock(100.0))
    for name, allowed in (("a", 1), ("b", 2), ("c", 2)):
        for _ in range(allowed):
            rates.take(name)
        with pytest.raises(ApiError):
            rates.take(name)
    free = KeyRates({"a": 1.0}, Clock(100.0))
    for _ in range(1000):
        free.take("b")


@pytest.mark.parametrize("text", ["a", "a=", "a=0", "a=-1", "a b=1", "=1", "a=1e3", "a=inf"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="requests per second"):
        parse_rates(text)


async def test_a_key_above_its_rate_gets_429_and_another_key_is_served(serve: Serve) -> None:
    client = await serve(
        api_keys=parse_api_keys(f"first:read:{KEY},second:read:{OTHER}"), api_key_rates=parse_rates("first=0.001")
    )
    statuses = []
    for key in (KEY, KEY, OTHER, OTHER):
        async with client.post("/score", json={"prompt": [1]}, headers={"Authorization": f"Bearer {key}"}) as response:
            statuses.append(response.status)
            if response.status == 429:
                assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
                assert int(response.headers["Retry-After"]) > 900
    assert statuses == [200, 429, 200, 200]
